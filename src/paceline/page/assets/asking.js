// One request to the server, read as it streams; where it does not stream, its whole answer.

export class Refused extends Error {
  constructor(status, error) {
    super(error.message || `the server answered ${status} without a reason`);
    this.status = status;
    this.code = error.code;
    this.leastBudgetMs = typeof error.least_budget_ms === "number" ? error.least_budget_ms : null;
  }
}

export function headersOf(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

export function chatBody({ model, question, picture, detail, budgetMs, infeasible, maxTokens }) {
  const content = [{ type: "text", text: question }];
  if (picture !== null) {
    content.unshift({ type: "image_url", image_url: detail === "auto" ? { url: picture } : { url: picture, detail } });
  }
  return {
    model,
    messages: [{ role: "user", content }],
    max_tokens: maxTokens,
    temperature: 0,
    stream: true,
    stream_options: { include_usage: true },
    latency_budget_ms: budgetMs,
    on_infeasible: infeasible,
  };
}

// calls `told` with { promised } at the first byte, { token } for every piece of text, and returns { report, timing, clientMs }
export async function ask(body, { key, signal, told }) {
  const payload = JSON.stringify(body);
  const started = performance.now();
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headersOf(key) },
    body: payload,
    signal,
  });
  if (!response.ok) throw new Refused(response.status, await errorOf(response));
  const found = { report: null, timing: stagesOf(response.headers.get("Server-Timing")), clientMs: null, usage: null };
  told({
    promised: {
      config: response.headers.get("x-paceline-config"),
      boundMs: Number.parseFloat(response.headers.get("x-paceline-bound-ms")) || null,
    },
  });
  const take = (chunk) => {
    if (chunk.error) throw new Refused(chunk.error.code ?? 500, chunk.error);
    const choice = chunk.choices?.[0];
    const text = choice?.delta?.content ?? choice?.message?.content;
    if (typeof text === "string" && text !== "") {
      found.clientMs ??= performance.now() - started;
      told({ token: text });
    }
    if (chunk.paceline) found.report = chunk.paceline;
    if (chunk.usage) found.usage = chunk.usage;
  };
  if ((response.headers.get("Content-Type") ?? "").startsWith("text/event-stream")) {
    for await (const event of events(response.body)) take(event);
  } else {
    take(await response.json());
  }
  return { ...found, wholeMs: performance.now() - started };
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const parts = ((rest += value ?? "").replaceAll("\r\n", "\n")).split("\n\n");
    rest = done ? "" : parts.pop();
    for (const part of parts) {
      const data = part
        .split("\n")
        .filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5).trimStart())
        .join("\n");
      // read to the end of the stream: only then has the server done with the request
      if (data !== "" && data !== "[DONE]") yield JSON.parse(data);
    }
    if (done) return;
  }
}

async function errorOf(response) {
  try {
    const found = await response.json();
    return typeof found.error === "object" && found.error !== null ? found.error : { message: found.detail ?? found.message };
  } catch {
    return {};
  }
}

// `Server-Timing: queue;dur=1.20, prefill;dur=30.00` as [name, milliseconds] pairs
function stagesOf(header) {
  return (header ?? "")
    .split(",")
    .map((part) => part.trim().split(";"))
    .map(([name, ...rest]) => [name, Number.parseFloat(rest.find((each) => each.trim().startsWith("dur="))?.trim().slice(4))])
    .filter(([name, ms]) => name && Number.isFinite(ms));
}
