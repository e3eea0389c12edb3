/** Collections: searching them, and adding files to them. */
import {Field} from "../../components/field.js"
import {Confirm} from "../../components/dialog.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {get, post, remove} from "../../core/api.js"
import {bytes, number} from "../../core/format.js"
import {html, useLoaded, useSignal, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {address, go, place} from "../../core/router.js"
import {may} from "../../core/session.js"
import {Found} from "./results.js"
import {Upload} from "./upload.js"

const path = name => `/collections/${encodeURIComponent(name)}`

export function Search() {
  const {rest} = useSignal(place)
  const {data, error, reload} = useLoaded(stop => get("/collections", stop))
  if (!data) return html`<h1>${t("page.search")}</h1><${Failure} error=${error} retry=${reload} />${!error && html`<${Waiting} />`}`
  const chosen = data.collections.find(each => each.name === rest)
  return chosen
    ? html`<${OneCollection} key=${rest} collection=${chosen} reload=${reload} />`
    : html`<${Collections} collections=${data.collections} reload=${reload} />`
}

function Collections({collections, reload}) {
  const [error, setError] = useState(undefined)
  const make = async event => {
    event.preventDefault()
    const name = String(new FormData(event.target).get("name")).trim()
    try {
      await post("/collections", {name})
      reload()
      go("search", name)
    } catch (failed) {
      setError(failed)
    }
  }
  return html`
    <h1>${t("page.search")}</h1>
    ${collections.length === 0
      ? html`<${Empty} title=${t("search.none")}><p>${t("search.none_hint")}</p><//>`
      : html`<ul class="cards">${collections.map(each => html`
          <li key=${each.name}><a class="card-link" href=${address("search", each.name)}>
            <span class="name">${each.name}</span>
            ${each.error ? html`<span class="bad-text">${each.error}</span>`
              : html`<span>${t("search.documents", {count: each.documents ?? 0})}</span>
                <span class="dim">${each.embedder ?? t("search.keywords_only")} · ${bytes(each.bytes)}</span>`}
          </a></li>`)}</ul>`}
    ${may.peek()("collections:write") && html`
      <form class="actions start spaced" onSubmit=${make}>
        <${Field} label=${t("search.new")}>${field => html`<input ...${field} name="name" required spellcheck="false" />`}<//>
        <button>${t("search.make")}</button>
      </form>`}
    <${Failure} error=${error} />`
}

function OneCollection({collection, reload}) {
  const [answer, setAnswer] = useState(null)
  const [error, setError] = useState(undefined)
  const [busy, setBusy] = useState(false)
  const [deleting, setDeleting] = useState(false)
  const ask = async event => {
    event.preventDefault()
    const form = new FormData(event.target)
    setBusy(true)
    setError(undefined)
    try {
      const filter = String(form.get("filter")).trim()
      setAnswer(await post("/search", {query: form.get("query"), collection: collection.name, mode: form.get("mode"),
        top_k: Number(form.get("top_k")), highlight: true, ...(filter ? {filter: JSON.parse(filter)} : {})}))
    } catch (failed) {
      setAnswer(null)
      setError(failed instanceof SyntaxError ? new Error(t("search.bad_filter")) : failed)
    }
    setBusy(false)
  }
  const writes = may.peek()("collections:write")
  return html`
    <p><a href=${address("search")}>${t("search.back")}</a></p>
    <div class="title-row"><h1 class="name">${collection.name}</h1>
      <span class="dim">${t("search.documents", {count: collection.documents ?? 0})} · ${collection.embedder ?? t("search.keywords_only")}</span>
      ${writes && html`<button class="quiet small" onClick=${() => setDeleting(true)}>${t("search.delete")}</button>`}</div>
    <form class="options" onSubmit=${ask}>
      <${Field} label=${t("search.query")}>${field => html`<input ...${field} class="long" name="query" required />`}<//>
      <${Field} label=${t("search.mode")}>${field => html`
        <select ...${field} name="mode">${["hybrid", "dense", "bm25"].map(mode => html`
          <option key=${mode} value=${mode}>${t(`mode.${mode}`)}</option>`)}</select>`}<//>
      <${Field} label=${t("search.top")}>${field => html`<input ...${field} name="top_k" type="number" min="1" max="100" defaultValue="10" value="10" />`}<//>
      <${Field} label=${t("search.filter")}>${field => html`
        <input ...${field} name="filter" spellcheck="false" placeholder='{"lang": "zh"}' />`}<//>
      <button class="primary" disabled=${busy}>${t("search.search")}</button>
    </form>
    <${Failure} error=${error} />
    ${answer && html`<${Found} answer=${answer} />`}
    ${writes && may.peek()("tasks") && html`<${Upload} collection=${collection.name} onDone=${reload} />`}
    ${deleting && html`<${Confirm} title=${t("search.delete_title", {name: collection.name})} action=${t("search.delete")}
      lost=${t("search.delete_lost", {count: number(collection.documents ?? 0)})} onClose=${() => setDeleting(false)}
      onConfirm=${async () => { await remove(path(collection.name)); go("search"); reload() }} />`}`
}
