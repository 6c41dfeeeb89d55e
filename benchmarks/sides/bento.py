"""A scikit-learn model as BentoML serves it: `bentoml serve bento:Rows`, with the model's file in MODEL."""

import os

import bentoml
import joblib
import pandas as pd


@bentoml.service(workers=1)
class Rows:
    "Rows in, probabilities out."

    def __init__(self) -> None:
        told = joblib.load(os.environ["MODEL"])
        self.model, self.columns, self.texts = told["model"], told["columns"], told["texts"]

    @bentoml.api
    def predict(self, rows: list[dict]) -> list[float]:
        frame = pd.DataFrame(rows, columns=self.columns)
        kinds = {c: object if c in self.texts else float for c in self.columns}
        return self.model.predict_proba(frame.astype(kinds))[:, 1].tolist()
