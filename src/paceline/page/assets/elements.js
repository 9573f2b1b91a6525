// Elements by description. Text goes in as text only: what a server says is never read as markup.

export const byId = (id) => document.getElementById(id);

export function element(tag, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) made.setAttribute(name, value);
  }
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

export function shape(tag, attributes = {}, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// widths and places by script, which the policy allows, never by a style attribute
export function placed(made, { left, width }) {
  if (left !== undefined) made.style.left = `${100 * left}%`;
  if (width !== undefined) made.style.width = `${100 * width}%`;
  return made;
}

export const number = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);

export function milliseconds(value) {
  const ms = number(value);
  if (ms === null) return "–";
  if (ms >= 10_000) return `${(ms / 1000).toLocaleString("en", { maximumFractionDigits: 1 })} s`;
  return `${ms.toLocaleString("en", { maximumFractionDigits: ms < 10 ? 2 : ms < 100 ? 1 : 0 })} ms`;
}

const TIERS = ["low", "medium", "high"];

export const tierClass = (tier) => (TIERS.includes(tier) ? tier : "other");

export function configurationOf(key) {
  const [tier, topK, blocks] = String(key).split("_");
  const given = (cell) => (cell === undefined || cell === "na" || cell === "None" ? null : cell);
  return { tier: given(tier), top_k: given(topK), num_active_blocks: given(blocks) };
}

export function configurationWords(config) {
  return [
    config.tier === null || config.tier === undefined ? "no picture" : `tier ${config.tier}`,
    config.top_k === null || config.top_k === undefined ? null : `${config.top_k} experts`,
    config.num_active_blocks === null || config.num_active_blocks === undefined ? null : `${config.num_active_blocks} blocks`,
  ].filter((words) => words !== null);
}
