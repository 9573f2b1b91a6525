"use strict";
const report = JSON.parse(document.getElementById("figures").textContent);
const views = new Map(); // a chart's view by its element
const PRINTED_WIDTH_PX = 640; // A4 between its margins; charts do not measure the paper by themselves

async function draw(element) {
  const { chart, rows, dataset } = element.dataset;
  const of = rows === undefined ? report.rows : report.rows[rows];
  const specification = structuredClone(report.charts[chart]);
  specification.datasets = { ...specification.datasets, rows: dataset === undefined ? of : of[dataset] };
  if (report.cuts !== undefined) specification.datasets.cuts = report.cuts;
  const { view } = await vegaEmbed(element, specification, { renderer: "svg", actions: false });
  views.set(element, view);
}

const drawn = Promise.all([...document.querySelectorAll("[data-chart]")].map(draw));
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((each) => (each.open = true));
  views.forEach((view) => view.signal("width", PRINTED_WIDTH_PX).runAsync());
});
addEventListener("afterprint", () => dispatchEvent(new Event("resize")));
drawn.then(() => setTimeout(() => (document.body.dataset.ready = "yes")));
