"use strict";
(() => {
  const recipes = JSON.parse(document.getElementById("builder-recipes").textContent);
  const at = (name) => document.getElementById(`builder-${name}`);
  const option = (text, value) => Object.assign(document.createElement("option"), { textContent: text, value });
  at("model").append(...recipes.map((each, index) => option(each.hub, index)));

  const chosen = () => recipes[at("model").value];

  function listHardware() {
    at("hardware").replaceChildren(...chosen().hardware.map((each, index) => option(each.name, index)));
    show();
  }

  function show() {
    const recipe = chosen();
    const budget = at("budget");
    const valid = budget.value !== "" && budget.checkValidity();
    const lines = recipe.hardware[at("hardware").value].commands;
    at("commands").textContent = valid
      ? lines.map((line) => line.replaceAll("BUDGET", budget.value)).join("\n")
      : `A budget is a whole number of milliseconds, ${budget.min} to ${budget.max}.`;
    at("copy").disabled = !valid;
    at("copied").textContent = "";
    at("facts").textContent =
      `Family ${recipe.family}, about ${recipe.parameters_billions} billion parameters; prompts by ${recipe.prompt_template}. ` +
      (recipe.measured === null ? "Not measured: no figure of this model is known here." : "Measured; see below.");
    at("measured").replaceChildren(...(recipe.measured === null ? [] : measured(recipe.measured)));
  }

  function measured(found) {
    const table = document.createElement("table");
    const row = (cells, kind) => {
      const made = document.createElement("tr");
      made.append(...cells.map((text) => Object.assign(document.createElement(kind), { textContent: text })));
      return made;
    };
    table.append(row(["budget (ms)", "Paceline", "table of means", "best configuration in hindsight", "promises kept"], "th"));
    for (const each of found.rows) {
      const best = `${each.best_fixed.toFixed(3)} (${each.best_fixed_config})`;
      const kept = `${each.promises_kept} of ${each.promised}`;
      table.append(row([each.budget_ms, each.paceline.toFixed(3), each.table.toFixed(3), best, kept], "td"));
    }
    const scrolled = Object.assign(document.createElement("div"), { className: "builder-scroll" });
    scrolled.append(table);
    const source = document.createElement("p");
    source.textContent = found.told;
    return [source, scrolled];
  }

  async function copy() {
    await navigator.clipboard.writeText(at("commands").textContent);
    at("copied").textContent = "Copied.";
  }

  at("model").addEventListener("change", listHardware);
  at("hardware").addEventListener("change", show);
  at("budget").addEventListener("input", show);
  at("copy").addEventListener("click", copy);
  document.getElementById("builder").hidden = false;
  listHardware();
})();
