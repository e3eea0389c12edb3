/** What an answer drew on: the sources of a collection and the memories that were recalled. */
import {Dialog} from "../../components/dialog.js"
import {When} from "../../components/when.js"
import {number} from "../../core/format.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {address} from "../../core/router.js"

/** Each opens its text, as the model was shown it. */
export function Sources({sources}) {
  const [open, setOpen] = useState(null)
  if (!sources) return null
  if (sources.length === 0) return html`<p class="dim">${t("playground.no_sources")}</p>`
  return html`
    <h3>${t("playground.sources")}</h3>
    <ol class="sources">${sources.map(source => html`
      <li key=${source.number}><button type="button" class="source" onClick=${() => setOpen(source)}>
        <span class="source-number">${source.number}</span><span class="source-title">${titleOf(source)}</span>
        <span class="dim numeric">${number(source.score)}</span></button></li>`)}</ol>
    ${open && html`
      <${Dialog} title=${titleOf(open)} onClose=${() => setOpen(null)}>
        <p class="dim"><a href=${address("search", open.collection)}>${open.collection}</a> · ${open.id} · ${t("playground.score")} ${number(open.score)}</p>
        <p class="text">${open.text}</p>
        ${Object.keys(open.metadata ?? {}).length > 0 && html`<dl class="took">${Object.entries(open.metadata).map(([name, value]) => html`
          <div key=${name}><dt>${name}</dt><dd>${typeof value === "object" ? JSON.stringify(value) : String(value)}</dd></div>`)}</dl>`}
        <div class="actions"><button class="quiet" onClick=${() => setOpen(null)}>${t("action.close")}</button></div>
      <//>`}`
}

/** Its title, or how its text begins. */
const titleOf = ({text, metadata}) => String(metadata?.title ?? metadata?.source ?? metadata?.path ?? `${text.slice(0, 60)}${text.length > 60 ? "…" : ""}`)

export const Memories = ({memories}) => memories && (memories.length === 0
  ? html`<p class="dim">${t("playground.no_memories")}</p>`
  : html`
    <details class="memories"><summary>${t("playground.memories", {count: memories.length})}</summary>
      <ul>${memories.map(memory => html`
        <li key=${memory.id}>${memory.text}
          <span class="dim"> · ${memory.session_id} · <${When} at=${seconds(memory.created_at)} /></span></li>`)}</ul>
    </details>`)

const seconds = time => typeof time === "string" ? Date.parse(time) / 1000 : time
