/** Every model with its deployments; loading and unloading them. */
import {Confirm} from "../../components/dialog.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {StateBadge} from "../../components/state_badge.js"
import {Table} from "../../components/table.js"
import {When} from "../../components/when.js"
import {get, post, remove} from "../../core/api.js"
import {bytes, number} from "../../core/format.js"
import {html, useLoaded, useSignal, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {address, go, place} from "../../core/router.js"
import {may} from "../../core/session.js"
import {Pull} from "./pull.js"

const path = name => `/models/${name.split("/").map(encodeURIComponent).join("/")}`

export function Models() {
  const {rest} = useSignal(place)
  return rest ? html`<${OneModel} key=${rest} name=${rest} />` : html`<${AllModels} />`
}

function AllModels() {
  const {data, error, loading, reload} = useLoaded(stop => get("/models", stop))
  const [pulling, setPulling] = useState(false)
  const columns = [
    {key: "name", title: t("models.name"), cell: model => html`<a href=${address("models", model.name)}>${model.name}</a>`},
    {key: "state", title: t("models.state"), cell: model => html`<${StateBadge} state=${model.state} />`},
    {key: "provider", title: t("models.provider"), cell: model => model.provider ?? "–"},
    {key: "deployments", title: t("models.deployments"), numeric: true, cell: model => number(model.deployments.length)},
    {key: "in_flight", title: t("models.running"), numeric: true, cell: model => number(model.in_flight)},
    {key: "memory", title: t("models.memory"), numeric: true, cell: model => bytes(model.memory)},
    {key: "last_used", title: t("models.last_used"), cell: model => html`<${When} at=${model.last_used} />`},
  ]
  return html`
    <div class="title-row"><h1>${t("page.models")}</h1>
      ${may.peek()("models:write") && html`<button onClick=${() => setPulling(true)}>${t("models.pull")}</button>`}</div>
    <${Failure} error=${error} retry=${reload} />
    ${!data ? loading && html`<${Waiting} />` : data.models.length === 0
      ? html`<${Empty} title=${t("models.none")}><p>${t("models.none_hint")}</p><//>`
      : html`<${Table} label=${t("page.models")} columns=${columns} rows=${data.models} id=${model => model.name}
               onOpen=${model => go("models", model.name)} />`}
    ${pulling && html`<${Pull} onClose=${() => { setPulling(false); reload() }} />`}`
}

function OneModel({name}) {
  const {data: model, error, reload} = useLoaded(stop => get(path(name), stop), [name])
  const [failed, setFailed] = useState(undefined)
  const [busy, setBusy] = useState("")
  const [asking, setAsking] = useState("")
  const run = async (kind, act) => {
    setBusy(kind)
    setFailed(undefined)
    try { await act() } catch (problem) { setFailed(problem) }
    setBusy("")
    reload()
  }
  const writes = may.peek()("models:write")
  return html`
    <p><a href=${address("models")}>${t("models.back")}</a></p>
    <div class="title-row"><h1 class="name">${name}</h1>${model && html`<${StateBadge} state=${busy || model.state} />`}</div>
    <${Failure} error=${error ?? failed} retry=${reload} />
    ${!model ? !error && html`<${Waiting} />` : html`
      ${model.error && html`<p class="notice bad">${model.error.message}</p>`}
      ${writes && html`<div class="actions start">
        <button disabled=${!!busy || model.state === "ready"} onClick=${() => run("loading", () => post(`${path(name)}/load`))}>
          ${t("models.load")}</button>
        <button class="quiet" disabled=${!!busy || model.state !== "ready"} onClick=${() => setAsking("unload")}>${t("models.unload")}</button>
        ${model.source === "runtime" && html`<button class="quiet" onClick=${() => setAsking("remove")}>${t("action.remove")}</button>`}
      </div>`}
      <dl class="facts">
        <div><dt>${t("models.source")}</dt><dd>${t(`source.${model.source}`)}</dd></div>
        <div><dt>${t("models.memory")}</dt><dd>${bytes(model.memory)}</dd></div>
        <div><dt>${t("models.running")}</dt><dd>${number(model.in_flight)}</dd></div>
        <div><dt>${t("models.loaded")}</dt><dd><${When} at=${model.loaded_at} /></dd></div>
        <div><dt>${t("models.last_used")}</dt><dd><${When} at=${model.last_used} /></dd></div>
        <div><dt>${t("models.fallbacks")}</dt><dd>${model.fallbacks.join(", ") || "–"}</dd></div>
      </dl>
      <h2>${t("models.deployments")}</h2>
      <${Deployments} rows=${model.deployments} />`}
    ${asking === "unload" && html`<${Confirm} title=${t("models.unload_title", {name})} lost=${t("models.unload_lost")}
      action=${t("models.unload")} onClose=${() => setAsking("")}
      onConfirm=${async () => { await post(`${path(name)}/unload`); reload() }} />`}
    ${asking === "remove" && html`<${Confirm} title=${t("models.remove_title", {name})} lost=${t("models.remove_lost")}
      action=${t("action.remove")} onClose=${() => setAsking("")}
      onConfirm=${async () => { await remove(path(name)); go("models") }} />`}`
}

function Deployments({rows}) {
  const columns = [
    {key: "model", title: t("models.deployment"), cell: each => `${each.provider}/${each.model}`},
    {key: "state", title: t("models.state"), cell: each => html`<${StateBadge} state=${each.state} />`},
    {key: "breaker", title: t("models.breaker"), cell: each => html`
      <span title=${each.breaker.last_failure ?? ""}><${StateBadge} state=${each.breaker.state} /></span>`},
    {key: "weight", title: t("models.weight"), numeric: true, cell: each => number(each.weight)},
    {key: "priority", title: t("models.priority"), numeric: true, cell: each => number(each.priority)},
    {key: "in_flight", title: t("models.running"), numeric: true,
      cell: each => `${number(each.in_flight)}${each.max_concurrency ? ` / ${number(each.max_concurrency)}` : ""}`},
    {key: "waiting", title: t("models.waiting"), numeric: true, cell: each => number(each.waiting)},
  ]
  return html`<${Table} label=${t("models.deployments")} columns=${columns} rows=${rows}
    id=${each => `${each.provider}/${each.model}`} />`
}
