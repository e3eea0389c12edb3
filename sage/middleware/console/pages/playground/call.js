/** One request to one model, as a stream, and what it took. */
import {events, get, request} from "../../core/api.js"
import {may} from "../../core/session.js"

const LATE = 1500 // milliseconds after which the ledger also knows the price of a model's first call

const PAUSE = 200 // milliseconds between two drawings of an answer that comes in

const SHORT = 50 // milliseconds from the first to the last token that tell nothing of the speed

/** Asks, and shows the answer as it comes, some times a second. What fails is shown in its place. */
export async function ask({answer, body, stop, show}) {
  const began = performance.now()
  let first = 0
  let soon = 0
  const showSoon = () => { soon ||= window.setTimeout(() => { soon = 0; show() }, PAUSE) }
  let sent
  show()
  try {
    sent = await request("POST", "/v1/chat/completions",
      {body: {...body, stream: true, stream_options: {include_usage: true}}, stop})
    answer.facts.request = sent.headers.get("x-request-id")
    answer.facts.deployment = decodeURIComponent(sent.headers.get("x-sage-deployment") ?? "")
    for await (const event of events(sent)) {
      const delta = event.choices?.[0]?.delta ?? {}
      if (!first && (delta.content || thought(delta) || delta.tool_calls)) first = performance.now()
      take(answer, event, delta)
      showSoon()
    }
  } catch (error) {
    if (!stop.aborted) answer.error = error
  }
  clearTimeout(soon)
  const ended = performance.now()
  const written = answer.facts.usage?.completion_tokens
  answer.facts = {
    ...answer.facts,
    first: first ? first - began : undefined,
    total: ended - began,
    rate: written > 1 && first && ended - first > SHORT ? (written - 1) / ((ended - first) / 1000) : undefined,
  }
  answer.stopped = stop.aborted
  answer.done = true
  show()
  if (sent && !stop.aborted && may.peek()("usage")) findCost(answer, sent).then(show, () => {})
}

/** Reasoning has two names in the field. */
const thought = delta => delta.reasoning_content ?? (typeof delta.reasoning === "string" ? delta.reasoning : "")

/** Adds what an event brings. */
function take(answer, event, delta) {
  answer.text += delta.content ?? ""
  answer.reasoning += thought(delta)
  for (const fragment of delta.tool_calls ?? []) {
    const {index = answer.calls.length, id, function: part = {}} = fragment
    const call = answer.calls[index] ??= {id: id ?? `call_${index}`, name: "", arguments: ""}
    call.name ||= part.name ?? ""
    call.arguments += part.arguments ?? ""
  }
  for (const run of event.tool_runs ?? []) {
    const at = answer.runs.findIndex(each => each.id === run.id)
    answer.runs.splice(at < 0 ? answer.runs.length : at, 1, run)
  }
  answer.sources ??= event.sources
  answer.memories ??= event.memories
  answer.warnings = event.warnings ?? answer.warnings
  answer.finish = event.choices?.[0]?.finish_reason ?? answer.finish
  if (event.usage) answer.facts.usage = event.usage
}

/** What the request cost, by the ledger: all calls that bear its id. */
async function findCost(answer, sent) {
  const id = encodeURIComponent(answer.facts.request)
  const from = Math.floor(Date.parse(sent.headers.get("date") ?? "") / 1000) - 60
  const path = `/usage/requests?id=${id}${from > 0 ? `&from=${from}` : ""}`
  for (const pause of [0, LATE]) {
    await new Promise(done => setTimeout(done, pause))
    const {requests} = await get(path)
    const isPriced = requests.length > 0 && requests.every(each => each.priced)
    answer.facts.cost = isPriced ? requests.reduce((sum, each) => sum + each.cost, 0) : null
    if (isPriced) return
  }
}
