// JupyterLab's side of mlworkbench, as a module that JupyterLab loads by itself: it takes JupyterLab's own modules
// from the share scope it is given, so that nothing has to be bundled or built.
(function () {
  "use strict";

  let scope;

  async function shared(name) {
    const versions = scope[name];
    if (!versions) throw new Error(`mlworkbench: JupyterLab offers no ${name}.`);
    const newest = Object.keys(versions).sort((a, b) => a.localeCompare(b, undefined, { numeric: true })).pop();
    return (await versions[newest].get())();
  }

  const MODULES = ["@jupyterlab/launcher", "@jupyterlab/notebook", "@jupyterlab/apputils", "@jupyterlab/services", "@jupyterlab/coreutils", "@jupyterlab/ui-components", "@lumino/widgets"];

  function plugin(launcherModule, notebookModule, apputils, services, coreutils, ui, lumino) {
    const { URLExt, PageConfig } = coreutils;
    const base = PageConfig.getBaseUrl();

    async function ask(path, told) {
      const settings = services.ServerConnection.makeSettings();
      const request = told === undefined ? {} : { method: "POST", body: JSON.stringify(told) };
      const response = await services.ServerConnection.makeRequest(URLExt.join(base, path), request, settings);
      const answer = await response.json().catch(() => ({ message: `${response.status} ${response.statusText}` }));
      if (!response.ok) throw new Error(answer.message || response.statusText);
      return answer;
    }

    const draw = (name, path) =>
      new ui.LabIcon({
        name: `mlworkbench:${name}`,
        svgstr: `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" width="16"><path class="jp-icon3" fill="none" stroke="#2b5fa8" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round" d="${path}"/></svg>`,
      });
    const ICONS = {
      "new-step": draw("new-step", "M4 4h10v6H4zM9 10v4M4 14h10v6H4zM19 9v6M16 12h6"),
      "new-dashboard": draw("new-dashboard", "M3 5h14v14H3zM3 10h14M8 10v9M21 3v6M18 6h6"),
      "run-pipeline": draw("run-pipeline", "M3 5h6v5H3zM3 14h6v5H3zM9 7h6M9 17h3l3-5M16 8l5 4-5 4z"),
      dashboards: draw("dashboards", "M3 20h18M5 16v-5M10 16V6M15 16v-8M20 16v-3"),
      "run-step": draw("run-step", "M6 4l12 8-12 8z"),
    };
    const LOOK = "<style>.mlw-side table { border-collapse: collapse; width: 100%; margin: 6px 0 14px; } .mlw-side th, .mlw-side td { text-align: left; vertical-align: top; padding: 3px 8px 3px 0; border-bottom: 1px solid var(--jp-border-color2); overflow-wrap: anywhere; } .mlw-side svg { max-width: 100%; height: auto; } .mlw-side pre { white-space: pre-wrap; } .mlw-side .soft { color: var(--jp-ui-font-color2); }</style>";

    class StepPanel extends lumino.Widget {
      constructor() {
        super();
        this.id = "mlworkbench-step";
        this.title.label = "Step";
        this.title.caption = "What this notebook is as a step of its pipeline";
        this.node.style.cssText = "overflow: auto; padding: 12px; background: var(--jp-layout-color1);";
        this.node.setAttribute("aria-label", "Step");
        this.addClass("mlw-side");
        this.path = null;
        this.turn = 0;
        this.running = false;
        this.outcome = { path: null, html: "" };
      }

      put(html) {
        this.node.innerHTML = LOOK + html;
      }

      say(text) {
        this.node.textContent = "";
        const note = document.createElement("p");
        note.setAttribute("role", "status");
        note.textContent = text;
        this.node.append(note);
      }

      // Answers may come in another order than they were asked for: only what was asked last is shown.
      async look(path) {
        this.path = path;
        if (this.running) return;
        const turn = ++this.turn;
        if (!path) return this.say("Open the notebook of a step to see what it reads, what it leaves, and whether its result is still good.");
        try {
          const { html } = await ask(`mlw/step?path=${encodeURIComponent(path)}`);
          if (turn === this.turn) this.put((this.outcome.path === path ? this.outcome.html : "") + html);
        } catch (error) {
          if (turn === this.turn) this.say(error.message);
        }
      }

      async run(path) {
        if (this.running) return;
        this.running = true;
        this.path = path;
        this.turn += 1;
        this.say("Running it, with the steps that it needs …");
        try {
          const { id } = await ask("mlw/runs", { path });
          let answer;
          do {
            await new Promise((done) => setTimeout(done, 1000));
            answer = await ask(`mlw/runs/${id}`);
            this.put(answer.html);
          } while (answer.running);
          this.outcome = { path, html: answer.html };
        } catch (error) {
          this.running = false;
          return this.say(error.message);
        }
        this.running = false;
        await this.look(this.path);
      }
    }

    return {
      id: "mlworkbench:plugin",
      description: "Tiles, commands and the page beside a step.",
      autoStart: true,
      requires: [notebookModule.INotebookTracker],
      optional: [launcherModule.ILauncher, apputils.ICommandPalette],
      activate(app, tracker, launcher, palette) {
        const panel = new StepPanel();
        app.shell.add(panel, "right", { rank: 900 });
        const current = () => (tracker.currentWidget ? tracker.currentWidget.context.path : null);
        const look = () => panel.look(current());
        tracker.currentChanged.connect(look);
        tracker.widgetAdded.connect((_, widget) => widget.context.saveState.connect((__, state) => state === "completed" && look()));
        look();

        async function make(kind, question, proposal) {
          const answer = await apputils.InputDialog.getText({ title: question, text: proposal, okLabel: "Make it" });
          if (!answer.button.accept || !answer.value) return;
          try {
            const { path } = await ask("mlw/new", { kind, name: answer.value });
            await app.commands.execute("docmanager:open", { path });
          } catch (error) {
            await apputils.showErrorMessage("It could not be made", error.message);
          }
        }

        const commands = {
          "mlworkbench:new-step": ["New step", "A notebook that is a step of a pipeline", () => make("step", "Pipeline and name of the step", "flights/check")],
          "mlworkbench:new-dashboard": ["New dashboard", "A page for people", () => make("dashboard", "Name of the dashboard", "overview")],
          "mlworkbench:run-pipeline": ["Run a pipeline", "Its graph, live, and a form to run it", () => void window.open(URLExt.join(base, "dashboards/pipeline"))],
          "mlworkbench:dashboards": ["Dashboards", "What is in production, how it fares, what waits", () => void window.open(URLExt.join(base, "home"))],
          "mlworkbench:run-step": ["Run this step", "Run the open step, with the steps that it needs", async () => {
            const widget = tracker.currentWidget;
            if (!widget) return;
            await widget.context.save();
            app.shell.activateById(panel.id);
            await panel.run(widget.context.path);
          }],
        };
        for (const [id, [label, caption, execute]] of Object.entries(commands)) {
          app.commands.addCommand(id, { label, caption, execute, icon: ICONS[id.split(":")[1]] });
          if (palette) palette.addItem({ command: id, category: "mlworkbench" });
          if (launcher && id !== "mlworkbench:run-step") launcher.add({ command: id, category: "mlworkbench", rank: 0 });
        }
        app.docRegistry.addWidgetExtension("Notebook", {
          createNew(widget) {
            const button = new apputils.ToolbarButton({ label: "Run step", tooltip: commands["mlworkbench:run-step"][1], onClick: () => app.commands.execute("mlworkbench:run-step") });
            widget.toolbar.insertItem(10, "mlworkbench-run-step", button);
            return button;
          },
        });
      },
    };
  }

  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB.mlworkbench = {
    init(given) {
      scope = given;
    },
    async get() {
      const modules = await Promise.all(MODULES.map(shared));
      return () => ({ __esModule: true, default: plugin(...modules) });
    },
  };
})();
