"""Great Expectations' side: the rules of a JSON file on a Parquet file. Run in its own environment."""

import json
import sys
import time
from pathlib import Path

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
from memory import peak_mb


def expectations(column: str, rules: dict):
    yield gxe.ExpectColumnValuesToNotBeNull(column=column, mostly=1 - rules.get("nulls", 0))
    if "min" in rules or "max" in rules:
        yield gxe.ExpectColumnValuesToBeBetween(
            column=column, min_value=rules.get("min"), max_value=rules.get("max")
        )
    if "allowed" in rules:
        yield gxe.ExpectColumnValuesToBeInSet(column=column, value_set=rules["allowed"])
    if "matches" in rules:
        yield gxe.ExpectColumnValuesToMatchRegex(column=column, regex=f"^(?:{rules['matches']})$")
    if rules.get("unique"):
        yield gxe.ExpectColumnValuesToBeUnique(column=column)


def main(data: str, rules: str) -> None:
    columns = json.loads(Path(rules).read_text())["columns"]
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("bench").add_dataframe_asset("table")
    batch = source.add_batch_definition_whole_dataframe("all")
    wanted = [e for column, r in columns.items() for e in expectations(column, r)]
    began = time.perf_counter()
    frame = pd.read_parquet(data)
    suite = gx.ExpectationSuite(name="rules", expectations=wanted)
    result = batch.get_batch(batch_parameters={"dataframe": frame}).validate(suite)
    broken = {
        f"{r.expectation_config.kwargs['column']} {r.expectation_config.type}": r.result["unexpected_count"]
        for r in result.results
        if not r.success
    }
    seconds = time.perf_counter() - began
    peak = peak_mb()
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "broken": broken}))


if __name__ == "__main__":
    main(*sys.argv[1:])
