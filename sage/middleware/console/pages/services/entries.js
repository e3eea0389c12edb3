/** The key-value service: keys by their beginning, a value read, written and deleted. */
import {Confirm} from "../../components/dialog.js"
import {Field} from "../../components/field.js"
import {TextFilter} from "../../components/filter_bar.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {Panel} from "../../components/panel.js"
import {Table} from "../../components/table.js"
import {told} from "../../components/toast.js"
import {call, get, remove} from "../../core/api.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {usePages} from "../../core/pages.js"

const path = key => `/kv/${key.split("/").map(encodeURIComponent).join("/")}`

export function Entries() {
  const [prefix, setPrefix] = useState("")
  const [open, setOpen] = useState(/** @type {string | null} */ (null))
  const [clearing, setClearing] = useState(false)
  const {pages, cursor, error, next, more, retry, reload} = usePages(`/kv?limit=1000&prefix=${encodeURIComponent(prefix)}`, {parameter: "after", field: "next"})
  const rows = pages.flatMap(page => page.keys).map(key => ({key}))
  const columns = [{key: "key", title: t("kv.key"), cell: row => html`<code>${row.key}</code>`}]
  return html`
    <div class="filters"><${TextFilter} label=${t("kv.prefix")} value=${prefix} onChange=${setPrefix} />
      <button class="primary" onClick=${() => setOpen("")}>${t("kv.new")}</button>
      ${prefix && rows.length > 0 && html`<button class="danger" onClick=${() => setClearing(true)}>${t("kv.clear", {prefix})}</button>`}</div>
    <${Failure} error=${error} retry=${retry} />
    ${pages.length === 0 ? !error && html`<${Waiting} />` : rows.length === 0
      ? html`<${Empty} title=${t("kv.none")}><p>${t("kv.none_hint")}</p><//>`
      : html`<${Table} label=${t("services.kv")} columns=${columns} rows=${rows} id=${row => row.key} onOpen=${row => setOpen(row.key)} onEnd=${more} />`}
    ${cursor && html`<button class="wide" onClick=${next}>${t("services.further")}</button>`}
    ${open !== null && html`<${Entry} key=${open} name=${open} prefix=${prefix} onClose=${() => setOpen(null)} onChange=${reload} />`}
    ${clearing && html`<${Confirm} title=${t("kv.clear", {prefix})} lost=${t("kv.clear_lost", {prefix})} action=${t("search.delete")}
      onClose=${() => setClearing(false)}
      onConfirm=${async () => { await remove(`/kv?prefix=${encodeURIComponent(prefix)}`); told(t("kv.deleted")); reload() }} />`}`
}

/** An entry, or a new one where `name` is empty. A value that is no JSON is kept as text. */
function Entry({name, prefix, onClose, onChange}) {
  const {data, error} = useLoaded(stop => name ? get(path(name), stop) : Promise.resolve({value: ""}))
  const [failed, setFailed] = useState(undefined)
  const [deleting, setDeleting] = useState(false)
  const save = async event => {
    event.preventDefault()
    const form = new FormData(event.target)
    const key = name || String(form.get("key"))
    const ttl = Number(form.get("ttl"))
    try {
      await call("PUT", path(key), {body: {value: JSON.parse(String(form.get("value"))), ...(ttl ? {ttl} : {})}})
      told(t("kv.saved"))
      onChange()
      onClose()
    } catch (problem) {
      setFailed(problem instanceof SyntaxError ? new Error(t("kv.bad_json")) : problem)
    }
  }
  return html`
    <${Panel} title=${name || t("kv.new")} onClose=${onClose}>
      <${Failure} error=${error} />
      ${!data ? !error && html`<${Waiting} />` : html`
        <form onSubmit=${save}>
          ${!name && html`<${Field} label=${t("kv.key")}>${field => html`<input ...${field} name="key" defaultValue=${prefix} required spellcheck="false" />`}<//>`}
          <${Field} label=${data.encoding ? t("kv.bytes", {encoding: data.encoding}) : t("kv.value")} hint=${t("kv.value_hint")}>${field => html`
            <textarea ...${field} class="code" name="value" rows="12" spellcheck="false" readonly=${!!data.encoding}
              defaultValue=${JSON.stringify(data.value, null, 2)} />`}<//>
          <${Field} label=${t("kv.ttl")} hint=${t("kv.ttl_hint")}>${field => html`<input ...${field} name="ttl" type="number" min="0" step="any" />`}<//>
          <${Failure} error=${failed} />
          <div class="actions">
            ${name && html`<button type="button" class="danger" onClick=${() => setDeleting(true)}>${t("search.delete")}</button>`}
            ${!data.encoding && html`<button class="primary">${t("kv.save")}</button>`}</div>
        </form>`}
      ${deleting && html`<${Confirm} title=${t("search.delete_title", {name})} lost=${t("kv.lost")} action=${t("search.delete")}
        onClose=${() => setDeleting(false)} onConfirm=${async () => { await remove(path(name)); told(t("kv.deleted")); onChange(); onClose() }} />`}
    <//>`
}
