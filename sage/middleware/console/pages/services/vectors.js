/** The vector database: its collections, what is in one, what is near to a text or a vector. */
import {CodeBlock} from "../../components/copyable.js"
import {Confirm} from "../../components/dialog.js"
import {Facts} from "../../components/facts.js"
import {Field} from "../../components/field.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {Panel} from "../../components/panel.js"
import {Table} from "../../components/table.js"
import {told} from "../../components/toast.js"
import {get, post, remove} from "../../core/api.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {usePages} from "../../core/pages.js"

const path = (name, id = "") => `/vdb/${encodeURIComponent(name)}${id && `/${id.split("/").map(encodeURIComponent).join("/")}`}`

export function Vectors() {
  const {data, error, reload} = useLoaded(stop => get("/vdb", stop))
  const [chosen, setChosen] = useState("")
  if (!data) return html`<${Failure} error=${error} retry=${reload} />${!error && html`<${Waiting} />`}`
  if (data.collections.includes(chosen)) {
    return html`<${VectorCollection} key=${chosen} name=${chosen} onBack=${() => setChosen("")} onGone=${() => { setChosen(""); reload() }} />`
  }
  return data.collections.length === 0
    ? html`<${Empty} title=${t("vdb.none")}><p>${t("vdb.none_hint")}</p><//>`
    : html`<ul class="cards">${data.collections.map(name => html`
        <li key=${name}><button class="card-link wide" onClick=${() => setChosen(name)}><span class="name">${name}</span></button></li>`)}</ul>`
}

function VectorCollection({name, onBack, onGone}) {
  const {pages, cursor, error, next, more, retry, reload} = usePages(`${path(name)}?limit=200`)
  const [found, setFound] = useState(/** @type {any[] | null} */ (null))
  const [failed, setFailed] = useState(undefined)
  const [open, setOpen] = useState(null)
  const [dropping, setDropping] = useState(false)
  const ask = async event => {
    event.preventDefault()
    const form = new FormData(event.target)
    const query = String(form.get("query")).trim()
    const where = String(form.get("where")).trim()
    setFailed(undefined)
    try {
      const nearTo = query.startsWith("[") ? {vector: JSON.parse(query)} : {text: query}
      setFound((await post(`${path(name)}/search`, {...nearTo, n_results: 20, ...(where ? {where: JSON.parse(where)} : {})})).results)
    } catch (problem) {
      setFailed(problem instanceof SyntaxError ? new Error(t("vdb.bad_json")) : problem)
    }
  }
  const rows = found ?? pages.flatMap(page => page.items)
  const columns = [
    {key: "id", title: t("jobs.id"), cell: each => html`<code>${each.id}</code>`},
    ...(found ? [{key: "score", title: t("search.score"), numeric: true, cell: each => each.score.toFixed(3)}] : []),
    {key: "text", title: t("vdb.text"), cell: each => each.text || "–"},
    {key: "metadata", title: t("vdb.metadata"), cell: each => html`<code>${JSON.stringify(each.metadata)}</code>`},
  ]
  return html`
    <div class="title-row"><button class="quiet" onClick=${onBack}>← ${t("vdb.back")}</button><h2 class="name">${name}</h2>
      <button class="quiet danger" onClick=${() => setDropping(true)}>${t("search.delete")}</button></div>
    <form class="options" onSubmit=${ask}>
      <${Field} label=${t("vdb.query")}>${field => html`<input ...${field} class="long" name="query" required spellcheck="false" placeholder="[0.1, 0.2, …]" />`}<//>
      <${Field} label=${t("search.filter")}>${field => html`<input ...${field} class="long" name="where" spellcheck="false" placeholder='{"kind": "cat"}' />`}<//>
      <button class="primary">${t("search.search")}</button>
      ${found && html`<button type="button" class="quiet" onClick=${() => setFound(null)}>${t("vdb.all")}</button>`}
    </form>
    <${Failure} error=${error ?? failed} retry=${retry} />
    ${pages.length === 0 ? !error && html`<${Waiting} />` : rows.length === 0
      ? html`<${Empty} title=${t(found ? "search.nothing" : "vdb.empty")}><p>${t(found ? "search.nothing_hint" : "vdb.none_hint")}</p><//>`
      : html`<${Table} label=${name} columns=${columns} rows=${rows} id=${each => each.id} onOpen=${each => setOpen(each.id)} onEnd=${found ? null : more} />`}
    ${!found && cursor && html`<button class="wide" onClick=${next}>${t("services.further")}</button>`}
    ${open && html`<${OneItem} key=${open} name=${name} id=${open} onClose=${() => setOpen(null)}
      onGone=${() => { setFound(found?.filter(each => each.id !== open) ?? null); setOpen(null); reload() }} />`}
    ${dropping && html`<${Confirm} title=${t("search.delete_title", {name})} lost=${t("vdb.lost")} action=${t("search.delete")}
      onClose=${() => setDropping(false)} onConfirm=${async () => { await remove(path(name)); told(t("vdb.deleted")); onGone() }} />`}`
}

function OneItem({name, id, onClose, onGone}) {
  const {data, error} = useLoaded(stop => get(`${path(name, id)}?vector=true`, stop))
  const [deleting, setDeleting] = useState(false)
  return html`
    <${Panel} title=${id} onClose=${onClose}>
      <${Failure} error=${error} />
      ${!data ? !error && html`<${Waiting} />` : html`
        <${Facts} items=${[[t("vdb.text"), data.text], ...Object.entries(data.metadata).map(([key, value]) => [key, typeof value === "string" ? value : JSON.stringify(value)]),
          [t("vdb.dimension"), data.vector?.length]]} />
        ${data.vector && html`<${CodeBlock} language=${t("vdb.vector")} text=${JSON.stringify(data.vector)} />`}
        <div class="actions"><button class="danger" onClick=${() => setDeleting(true)}>${t("search.delete")}</button></div>`}
      ${deleting && html`<${Confirm} title=${t("search.delete_title", {name: id})} lost=${t("kv.lost")} action=${t("search.delete")}
        onClose=${() => setDeleting(false)} onConfirm=${async () => { await remove(path(name, id)); told(t("kv.deleted")); onGone() }} />`}
    <//>`
}
