"use strict";
const report = JSON.parse(document.getElementById("figures").textContent);
const views = [];
const PRINTED_WIDTH_PX = 640; // A4 between its margins; charts do not measure the paper by themselves

async function draw(element) {
  const specification = structuredClone(report.charts[element.dataset.chart]);
  specification.datasets = { ...specification.datasets, rows: report.rows };
  const { view } = await vegaEmbed(element, specification, { renderer: "svg", actions: false });
  views.push(view);
}

async function start() {
  await Promise.all([...document.querySelectorAll("[data-chart]")].map(draw));
  document.body.dataset.ready = "yes";
}

addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((each) => (each.open = true));
  views.forEach((view) => view.signal("width", PRINTED_WIDTH_PX).runAsync());
});
addEventListener("afterprint", () => dispatchEvent(new Event("resize")));
start();
