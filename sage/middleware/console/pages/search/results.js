/** What a search found, with what each leg thinks of it. */
import {Empty} from "../../components/notice.js"
import {duration, number} from "../../core/format.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {OneDocument} from "./one_document.js"

const LEGS = ["dense", "bm25"]

/** @param {{answer: any, collection: string}} properties */
export function Found({answer, collection}) {
  const [open, setOpen] = useState(/** @type {string | null} */ (null))
  const most = {}
  for (const {scores} of answer.results) {
    for (const [leg, score] of Object.entries(scores)) most[leg] = Math.max(most[leg] ?? 0, score ?? 0)
  }
  return html`
    <p class="dim" role="status">${t("search.took", {count: number(answer.total), took: duration(answer.took_ms)})}</p>
    ${(answer.warnings ?? []).map(warning => html`<p class="notice bad" key=${warning}>${warning}</p>`)}
    ${answer.results.length === 0
      ? html`<${Empty} title=${t("search.nothing")}><p>${t("search.nothing_hint")}</p><//>`
      : html`<ol class="results">${answer.results.map((result, index) => html`
          <${Result} key=${result.id} result=${result} most=${most} rank=${index + 1} onOpen=${() => setOpen(result.id)} />`)}</ol>`}
    ${open && html`<${OneDocument} key=${open} collection=${collection} id=${open} onClose=${() => setOpen(null)} />`}`
}

function Result({result, most, rank, onOpen}) {
  const {scores, score, id, metadata} = result
  return html`
    <li class="found">
      <div class="rank"><b>${rank}</b><span class="numeric" title=${t("search.score")}>${score.toFixed(3)}</span></div>
      <div>
        <p class="passage">${passages(result)}</p>
        <p class="pairs"><button class="link" onClick=${onOpen}>${id}</button>${Object.entries(metadata).slice(0, 6).map(([key, value]) => html`
          <span class="chip" key=${key}><span class="dim">${key}</span> ${typeof value === "string" ? value : JSON.stringify(value)}</span>`)}</p>
      </div>
      <div class="legs">${LEGS.filter(leg => scores[leg] !== undefined).map(leg => html`
        <div key=${leg} class=${`leg ${leg}`}><span class="dim">${t(`mode.${leg}`)}</span>
          <span class="meter" role="meter" aria-label=${t(`mode.${leg}`)} aria-valuemin="0" aria-valuemax="100"
            aria-valuenow=${share(scores[leg], most[leg])}><span style=${{width: `${share(scores[leg], most[leg])}%`}} /></span>
          <span class="numeric">${scores[leg] === null ? "–" : scores[leg].toFixed(3)}</span></div>`)}
        ${scores.relevance !== undefined && html`<div class="leg"><span class="dim">${t("memory.relevance")}</span><span />
          <span class="numeric">${scores.relevance?.toFixed(2) ?? "–"}</span></div>`}
      </div>
    </li>`
}

const share = (score, most) => most > 0 ? Math.round(Math.max(0, score ?? 0) / most * 100) : 0

/** The passages that matched, or the beginning of the text. `<em>` in them is our own mark, and becomes an element. */
function passages({highlights, text}) {
  const shown = highlights?.length ? highlights.join(" … ") : text.slice(0, 400)
  if (!highlights?.length) return shown
  return shown.split(/<em>(.*?)<\/em>/s).map((part, index) => index % 2 ? html`<mark key=${index}>${part}</mark>` : part)
}
