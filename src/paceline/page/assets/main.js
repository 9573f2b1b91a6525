// The page: what is asked, the answers beside each other, and the server's last requests below.
import { AnswerCard } from "./answer.js";
import { ask, chatBody, headersOf } from "./asking.js";
import { BudgetSlider } from "./budgets.js";
import { byId, element } from "./elements.js";
import { Picture } from "./picture.js";
import { Recent } from "./recent.js";

const FIRST_BUDGETS_MS = { a: 300, b: 50 };
const SETTLED_MS = 250; // after the last key on a slider
const AGAIN_MS = 4000; // until a server that is not there is looked for again

const key = () => byId("key").value.trim();
const recent = new Recent({ key });
const picture = new Picture(() => askedOnce && go());
const budgets = {
  a: new BudgetSlider("a", FIRST_BUDGETS_MS.a, settle),
  b: new BudgetSlider("b", FIRST_BUDGETS_MS.b, settle),
};
let askedOnce = false;
let running = null;
let settling = null;

function settle() {
  clearTimeout(settling);
  if (askedOnce) settling = setTimeout(go, SETTLED_MS);
}

async function go() {
  clearTimeout(settling);
  running?.abort();
  const own = new AbortController();
  running = own;
  askedOnce = true;
  const compared = byId("compare").checked;
  const asked = compared ? [budgets.a, budgets.b] : [budgets.a];
  const cards = asked.map(
    (budget) =>
      new AnswerCard(budget.ms, {
        onAskFor: (ms) => {
          budget.set(ms);
          go();
        },
      }),
  );
  byId("answers").replaceChildren(...cards.map((card) => card.root));
  byId("answers-title").textContent = compared ? "Two budgets, one picture" : "Answer";
  byId("stop").hidden = false;
  // one after the other, so that neither waits for the other
  for (const [index, card] of cards.entries()) {
    if (own.signal.aborted) break;
    await answer(card, asked[index].ms, own.signal);
  }
  if (running === own) {
    running = null;
    byId("stop").hidden = true;
  }
}

async function answer(card, budgetMs, signal) {
  const body = chatBody({
    model: byId("model").value,
    question: byId("question").value.trim() || "What is in the picture?",
    picture: picture.url,
    detail: byId("detail").value,
    infeasible: byId("infeasible").value,
    maxTokens: Math.max(1, byId("max-tokens").valueAsNumber || 128),
    budgetMs,
  });
  let said;
  try {
    const found = await ask(body, { key: key(), signal, told: (part) => card.told(part) });
    said = card.finished(found);
    if (found.report) recent.add(found.report);
  } catch (error) {
    said = card.failed(error.name === "TypeError" ? new Error("The server did not answer; is it still running?") : error);
    if (error.status === 401) askForKey();
  }
  if (!signal.aborted) byId("announced").textContent = said;
}

function askForKey() {
  document.querySelector(".more").open = true;
  byId("key").placeholder = "this server asks for one";
  byId("key").focus();
}

async function findServer() {
  try {
    const models = await fetch("v1/models", { headers: headersOf(key()) });
    if (models.status === 401) {
      askForKey();
      return lamp("down", "The server asks for an API key.");
    }
    if (!models.ok) throw new Error(`it answered ${models.status}`);
    const found = ((await models.json()).data ?? []).map((each) => String(each.id));
    const chosen = byId("model").value;
    byId("model").replaceChildren(...found.map((id) => element("option", { value: id, text: id, selected: id === chosen ? "" : null })));
    lamp("up", found.length ? `${byId("model").value} is ready` : "The server is ready and names no model.");
  } catch {
    lamp("down", "No server answers here yet; looking again …");
    setTimeout(findServer, AGAIN_MS);
  }
}

function lamp(state, words) {
  byId("lamp").className = `lamp ${state}`;
  byId("server-said").textContent = words;
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  go();
});
byId("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    go();
  }
});
byId("stop").addEventListener("click", () => running?.abort());
byId("compare").addEventListener("change", (event) => {
  budgets.b.row.hidden = !event.target.checked;
  byId("budget-name-a").textContent = event.target.checked ? "First budget" : "Time to first token";
  settle();
});
byId("key").addEventListener("change", () => {
  findServer();
  recent.refresh();
});
for (const id of ["model", "detail", "infeasible"]) byId(id).addEventListener("change", settle);

await Promise.all([findServer(), recent.refresh()]);
document.body.dataset.ready = "yes";
