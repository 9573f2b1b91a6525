const slider = document.getElementById("budget");
const fronts = new Map();

const percent = (share) => (100 * share).toFixed(0);

function sentence(dataset, controller, index) {
  const key = report.taken[dataset][controller][index];
  const unfit = index < report.unfit[dataset][controller];
  const row = report.rows.front[dataset].find((each) => each.key === key);
  if (row === undefined) return [key, unfit, "not measured on this dataset"];
  const [share, low, high] = report.kept[dataset][controller][index];
  const interval = row.accuracy_low === null ? "" : ` (${row.accuracy_low.toFixed(3)}–${row.accuracy_high.toFixed(3)})`;
  return [
    key,
    unfit,
    `accuracy ${row.accuracy.toFixed(3)}${interval}, kept by ${percent(share)} % of the samples behind it ` +
      `(${percent(low)}–${percent(high)} %, n = ${row.n.toLocaleString("en")})`,
  ];
}

function showDecided(budget) {
  const decided = report.decided;
  if (decided === null) return;
  const place = Math.max(0, decided.budgets.findLastIndex((each) => each <= budget));
  const cells = decided.controllers.flatMap(({ words, promises, rows }) => {
    const row = rows[place];
    const ends = row.accuracy_ends === null ? "" : ` (${row.accuracy_ends.map((end) => end.toFixed(3)).join("–")})`;
    const share = row.kept === null ? "" : `kept for ${percent(row.kept[0])} % (${percent(row.kept[1])}–${percent(row.kept[2])} %)`;
    const of = `${row.promised} of ${decided.requests} held-out requests`;
    const kept = promises
      ? row.kept === null
        ? "nothing promised"
        : `promised to ${of}, ${share} where ${percent(decided.asked)} % are asked`
      : row.kept === null
        ? "no mean fits"
        : `a mean fits for ${of}, ${share}, nothing promised`;
    const name = Object.assign(document.createElement("dt"), { textContent: words });
    const said = document.createElement("dd");
    const taken = Object.assign(document.createElement("b"), { textContent: row.taken });
    said.append(taken, ` for ${percent(row.taken_share)} %; at ${decided.budgets[place]} ms ${kept}; accuracy ${row.accuracy.toFixed(3)}${ends}`);
    return [name, said];
  });
  document.getElementById("decided").replaceChildren(...cells);
}

function show(index) {
  const budget = report.budgets[index];
  const words = `${budget} ms`;
  document.getElementById("budget-shown").textContent = words;
  const key = report.global[index];
  const fits = index >= report.global_unfit;
  const said = fits
    ? `The global table takes ${key}.`
    : `No configuration fits: the global table takes the nearest, ${key}, and marks it.`;
  document.getElementById("taken").textContent = said;
  slider.setAttribute("aria-valuetext", `${words}. ${said}`);
  showDecided(budget);
  for (const dataset of Object.keys(report.taken)) {
    for (const controller of ["global", "own"]) {
      const cell = document.querySelector(`[data-taken="${controller}"][data-dataset="${CSS.escape(dataset)}"]`);
      const [taken, unfit, rest] = sentence(dataset, controller, index);
      const name = document.createElement("b");
      name.textContent = taken;
      const mark = document.createElement("span");
      mark.className = "unfit";
      mark.textContent = unfit ? " (none fits, the nearest)" : "";
      cell.replaceChildren(name, mark, `: ${rest}`);
    }
    const view = fronts.get(dataset);
    view
      .signal("budget", budget)
      .signal("global_key", key)
      .signal("own_key", report.taken[dataset].own[index])
      .runAsync();
  }
}

drawn.then(() => {
  for (const [element, view] of views) {
    if (element.dataset.chart === "front") fronts.set(element.dataset.dataset, view);
  }
  slider.addEventListener("input", () => show(slider.valueAsNumber));
  show(slider.valueAsNumber);
});
