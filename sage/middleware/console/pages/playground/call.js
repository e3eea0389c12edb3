/** One question to one model, as a stream, and what it took. */
import {events, request} from "../../core/api.js"

/** The body of the request that asks `turn` of the model on `side`, after `earlier` turns. */
export function chatBody({earlier, turn, side, options}) {
  const messages = options.system.trim() ? [{role: "system", content: options.system.trim()}] : []
  for (const before of earlier) {
    const said = before.answers[Math.min(side, before.answers.length - 1)]
    messages.push({role: "user", content: before.question}, {role: "assistant", content: said.text})
  }
  messages.push({role: "user", content: turn.question})
  const body = {model: turn.answers[side].model, messages}
  for (const name of ["temperature", "max_tokens"]) if (options[name] !== "") body[name] = Number(options[name])
  return body
}

/** Asks, and shows the answer as it comes. What fails is shown in its place. */
export async function ask({earlier, turn, side, options, stop, show}) {
  const began = performance.now()
  const update = change => { turn.answers[side] = {...turn.answers[side], ...change}; show() }
  const now = () => turn.answers[side]
  const body = {...chatBody({earlier, turn, side, options}), stream: true, stream_options: {include_usage: true}}
  let first = 0
  try {
    const answer = await request("POST", "/v1/chat/completions", {body, stop})
    for await (const event of events(answer)) {
      const delta = event.choices?.[0]?.delta ?? {}
      if (!first && (delta.content || delta.reasoning_content)) first = performance.now()
      update({
        text: now().text + (delta.content ?? ""),
        reasoning: now().reasoning + (delta.reasoning_content ?? ""),
        calls: joined(now().calls, delta.tool_calls ?? []),
        finish: event.choices?.[0]?.finish_reason ?? now().finish,
        facts: event.usage ? {...now().facts, usage: event.usage} : now().facts,
      })
    }
  } catch (error) {
    if (!stop.aborted) update({error})
  }
  const ended = performance.now()
  const written = now().facts.usage?.completion_tokens
  update({done: true, stopped: stop.aborted, facts: {
    ...now().facts,
    first: first ? first - began : undefined,
    total: ended - began,
    rate: written && first && ended > first ? written / ((ended - first) / 1000) : undefined,
  }})
}

/** Tool calls with the fragments of a delta added. */
function joined(calls, fragments) {
  const all = [...calls]
  for (const {index = 0, function: part = {}} of fragments) {
    const before = all[index] ?? {name: "", arguments: ""}
    all[index] = {name: before.name || (part.name ?? ""), arguments: before.arguments + (part.arguments ?? "")}
  }
  return all
}
