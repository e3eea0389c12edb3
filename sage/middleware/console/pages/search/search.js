/** Collections: the list, a new one, and the way into one. */
import {Field} from "../../components/field.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {PageHead} from "../../components/page_head.js"
import {Panel} from "../../components/panel.js"
import {get, post} from "../../core/api.js"
import {bytes} from "../../core/format.js"
import {html, useLoaded, useSignal, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {address, go, place} from "../../core/router.js"
import {may} from "../../core/session.js"
import {OneCollection} from "./one_collection.js"
import {EmbedderInput} from "./reembed.js"

export function Search() {
  const {rest} = useSignal(place)
  return rest ? html`<${OneCollection} key=${rest} name=${rest} />` : html`<${Collections} />`
}

function Collections() {
  const {data, error, reload} = useLoaded(stop => get("/collections", stop))
  const [making, setMaking] = useState(false)
  const writes = may.peek()("collections:write")
  return html`
    <${PageHead} title=${t("page.search")} hint=${t("search.hint")}>
      ${writes && html`<button class="primary" onClick=${() => setMaking(true)}>${t("search.new")}</button>`}<//>
    <${Failure} error=${error} retry=${reload} />
    ${!data ? !error && html`<${Waiting} />` : data.collections.length === 0
      ? html`<${Empty} title=${t("search.none")}><p>${t("search.none_hint")}</p><//>`
      : html`<ul class="cards">${data.collections.map(each => html`
          <li key=${each.name}><a class="card-link" href=${address("search", each.name)}>
            <span class="name">${each.name}</span>
            ${each.error ? html`<span class="bad-text">${each.error}</span>`
              : html`<span>${t("search.documents", {count: each.documents ?? 0})}</span>
                <span class="dim">${each.embedder ?? t("search.keywords_only")} · ${bytes(each.bytes)}</span>`}
          </a></li>`)}</ul>`}
    ${making && html`<${NewCollection} onClose=${() => setMaking(false)} />`}`
}

function NewCollection({onClose}) {
  const [error, setError] = useState(undefined)
  const make = async event => {
    event.preventDefault()
    const form = new FormData(event.target)
    const name = String(form.get("name")).trim()
    const embedder = String(form.get("embedder")).trim()
    const metric = String(form.get("metric"))
    try {
      await post("/collections", {name, ...(embedder ? {embedder} : {}), ...(metric ? {metric} : {})})
      onClose()
      go("search", name)
    } catch (failed) {
      setError(failed)
    }
  }
  return html`
    <${Panel} title=${t("search.new")} onClose=${onClose}>
      <form onSubmit=${make}>
        <${Field} label=${t("keys.name")} hint=${t("search.name_hint")}>${field => html`<input ...${field} name="name" required spellcheck="false" />`}<//>
        <${Field} label=${t("search.embedder")} hint=${t("search.embedder_hint")}>${field => html`<${EmbedderInput} field=${field} />`}<//>
        <${Field} label=${t("search.metric")}>${field => html`
          <select ...${field} name="metric"><option value="">${t("search.as_configured")}</option>
            ${["cosine", "dot", "l2"].map(each => html`<option key=${each} value=${each}>${each}</option>`)}</select>`}<//>
        <${Failure} error=${error} />
        <div class="actions"><button type="button" class="quiet" onClick=${onClose}>${t("action.cancel")}</button>
          <button class="primary">${t("search.make")}</button></div>
      </form>
    <//>`
}
