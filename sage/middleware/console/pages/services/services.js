/** The services, their calls, and what the key-value service and the memories hold. */
import {CodeBlock} from "../../components/copyable.js"
import {Confirm, Dialog} from "../../components/dialog.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {StateBadge} from "../../components/state_badge.js"
import {Table} from "../../components/table.js"
import {Tabs} from "../../components/tabs.js"
import {When} from "../../components/when.js"
import {get, post, remove} from "../../core/api.js"
import {number} from "../../core/format.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {may} from "../../core/session.js"

export function Services() {
  const tabs = [
    ...(may.peek()("services:read") ? [{name: t("services.services"), body: () => html`<${Running} />`}] : []),
    ...(may.peek()("memory") ? [{name: t("services.memory"), body: () => html`<${Memories} />`}] : []),
    ...(may.peek()("kv") ? [{name: t("services.kv"), body: () => html`<${Entries} />`}] : []),
  ]
  return html`<h1>${t("page.services")}</h1><${Tabs} label=${t("page.services")} tabs=${tabs} />`
}

function Running() {
  const {data, error, reload} = useLoaded(stop => get("/services", stop))
  const columns = [
    {key: "name", title: t("services.name"), cell: each => each.name},
    {key: "class", title: t("services.class"), cell: each => each.class ?? "–"},
    {key: "state", title: t("models.state"), cell: each => html`<span title=${each.error ?? ""}><${StateBadge} state=${each.state} /></span>`},
    {key: "replicas", title: t("services.replicas"), numeric: true, cell: each => number(each.replicas)},
    {key: "calls", title: t("services.calls"), numeric: true, cell: each => number(each.statistics?.calls ?? 0)},
    {key: "host", title: t("services.host"), cell: each => each.host},
  ]
  if (!data) return html`<${Failure} error=${error} retry=${reload} />${!error && html`<${Waiting} />`}`
  return data.services.length === 0
    ? html`<${Empty} title=${t("services.none")}><p>${t("services.none_hint")}</p><//>`
    : html`<${Table} label=${t("services.services")} columns=${columns} rows=${data.services} id=${each => `${each.environment}/${each.name}`} />`
}

function Memories() {
  const {data, error, reload} = useLoaded(stop => get("/memory/sessions?limit=200", stop))
  const [found, setFound] = useState(null)
  const [failed, setFailed] = useState(undefined)
  const [forgetting, setForgetting] = useState(null)
  const show = async load => {
    setFailed(undefined)
    try { setFound(await load()) } catch (problem) { setFailed(problem) }
  }
  const ask = event => {
    event.preventDefault()
    const query = new FormData(event.target).get("query")
    show(async () => (await post("/memory/search", {query, limit: 20})).results)
  }
  const columns = [
    {key: "content", title: t("memory.content"), cell: each => html`<span title=${each.content}>${each.content}</span>`},
    {key: "session", title: t("memory.session"), cell: each => each.session_id},
    {key: "type", title: t("memory.type"), cell: each => each.memory_type},
    {key: "created", title: t("jobs.created"), cell: each => html`<${When} at=${each.created_at} />`},
    {key: "act", title: t("keys.actions"), cell: each => html`<button class="quiet small" onClick=${() => setForgetting(each)}>${t("memory.forget")}</button>`},
  ]
  return html`
    <form class="filters" onSubmit=${ask}><label>${t("memory.search")} <input name="query" required /></label><button>${t("search.search")}</button></form>
    <${Failure} error=${error ?? failed} retry=${reload} />
    ${data?.sessions.length === 0 && html`<${Empty} title=${t("memory.none")}><p>${t("memory.none_hint")}</p><//>`}
    <ul class="cards">${(data?.sessions ?? []).map(({session_id: id}) => html`
      <li key=${id}><button class="card-link wide" onClick=${() => show(async () => (await get(`/memory/sessions/${encodeURIComponent(id)}?limit=200`)).memories)}>
        <span class="name">${id}</span></button></li>`)}</ul>
    ${found && html`<h2>${t("memory.found", {count: found.length})}</h2>
      ${found.length > 0 && html`<${Table} label=${t("services.memory")} columns=${columns} rows=${found} id=${each => each.id} />`}`}
    ${forgetting && html`<${Confirm} title=${t("memory.forget_title")} lost=${forgetting.content} action=${t("memory.forget")}
      onClose=${() => setForgetting(null)}
      onConfirm=${async () => { await remove(`/memory/${forgetting.id}`); setFound(found.filter(each => each.id !== forgetting.id)) }} />`}`
}

function Entries() {
  const [prefix, setPrefix] = useState("")
  const [open, setOpen] = useState(null)
  const {data, error, reload} = useLoaded(stop => get(`/kv?limit=500&prefix=${encodeURIComponent(prefix)}`, stop), [prefix])
  const path = key => `/kv/${key.split("/").map(encodeURIComponent).join("/")}`
  const columns = [{key: "key", title: t("kv.key"), cell: row => row.key}]
  const show = async ({key}) => setOpen(await get(path(key)))
  return html`
    <div class="filters"><label>${t("kv.prefix")} <input value=${prefix} spellcheck="false" onChange=${event => setPrefix(event.target.value)} /></label></div>
    <${Failure} error=${error} retry=${reload} />
    ${!data ? !error && html`<${Waiting} />` : data.keys.length === 0
      ? html`<${Empty} title=${t("kv.none")}><p>${t("kv.none_hint")}</p><//>`
      : html`<${Table} label=${t("services.kv")} columns=${columns} rows=${data.keys.map(key => ({key}))} id=${row => row.key} onOpen=${show} />`}
    ${open && html`
      <${Dialog} title=${open.key} onClose=${() => setOpen(null)}>
        <${CodeBlock} language=${open.encoding ?? "JSON"} text=${JSON.stringify(open.value, null, 2)} />
        <div class="actions"><button class="quiet" onClick=${() => setOpen(null)}>${t("action.close")}</button></div>
      <//>`}`
}
