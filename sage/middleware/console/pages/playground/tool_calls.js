/** Tools in an answer: calls that the user answers by hand, and what the gateway ran itself. */
import {Icon} from "../../components/icon.js"
import {StateBadge} from "../../components/state_badge.js"
import {duration} from "../../core/format.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"

/** @param {{calls: import("./conversation.js").ToolCall[], onResults?: (results: string[]) => void}} properties */
export function ToolCalls({calls, onResults}) {
  const [results, setResults] = useState(calls.map(() => ""))
  const waits = onResults && calls.some(call => call.result === undefined)
  const submit = event => { event.preventDefault(); onResults?.(calls.map((_, index) => results[index] ?? "")) }
  return html`
    <form class="tool-calls" onSubmit=${submit}>
      ${calls.map((call, index) => html`
        <section class="tool" key=${call.id} aria-label=${call.name}>
          <header><${Icon} name="mcp" /> <code>${call.name}</code></header>
          <pre tabindex="0">${pretty(call.arguments)}</pre>
          ${call.result !== undefined ? html`<p class="dim">${t("playground.result")}</p><pre tabindex="0">${call.result}</pre>` : waits && html`
            <label>${t("playground.result")}
              <textarea rows="2" required value=${results[index] ?? ""} placeholder='{"celsius": 21}'
                onInput=${event => setResults(Object.assign([...results], {[index]: event.target.value}))} /></label>`}
        </section>`)}
      ${waits && html`<button class="primary">${t("playground.go_on", {count: calls.length})}</button>`}
    </form>`
}

export const ToolRuns = ({runs}) => runs.map(run => html`
  <details class="tool" key=${run.id}>
    <summary><code>${run.server ? `${run.server} · ` : ""}${run.tool ?? run.name}</code> <${StateBadge} state=${run.status} />
      ${run.seconds !== undefined && run.seconds !== null && html`<span class="dim">${duration(run.seconds * 1000)}</span>`}</summary>
    <pre tabindex="0">${pretty(run.arguments)}</pre>
    ${run.output && html`<p class="dim">${t("playground.result")}</p><pre tabindex="0">${pretty(run.output)}</pre>`}
  </details>`)

/** JSON with its lines, or the text as it is. */
function pretty(value) {
  if (typeof value !== "string") return JSON.stringify(value, null, 2) ?? ""
  try {
    return JSON.stringify(JSON.parse(value), null, 2)
  } catch {
    return value
  }
}
