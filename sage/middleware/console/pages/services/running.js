/** Services of this gateway and those that other environments announce: their state, calls, queue and latency. */
import {CodeBlock} from "../../components/copyable.js"
import {Facts} from "../../components/facts.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {Meter} from "../../components/meter.js"
import {Panel} from "../../components/panel.js"
import {StateBadge} from "../../components/state_badge.js"
import {Table} from "../../components/table.js"
import {get} from "../../core/api.js"
import {useEvery} from "../../core/every.js"
import {duration, number} from "../../core/format.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"

const id = each => `${each.environment}/${each.node}/${each.name}`

export function Running() {
  const {data, error, reload} = useLoaded(stop => get("/services", stop))
  const [open, setOpen] = useState("")
  useEvery(reload, !!data, 5000)
  const columns = [
    {key: "name", title: t("services.name"), cell: each => html`<strong>${each.name}</strong>`},
    {key: "state", title: t("models.state"), cell: each => html`<span title=${each.error ?? ""}><${ServiceState} service=${each} /></span>`},
    {key: "calls", title: t("services.calls"), numeric: true, cell: each => number(each.statistics?.calls ?? 0)},
    {key: "errors", title: t("services.errors"), numeric: true, cell: each => number(each.statistics?.errors ?? 0)},
    {key: "half", title: t("services.half"), numeric: true, cell: each => duration(each.statistics?.latency_ms?.p50)},
    {key: "most", title: t("services.most"), numeric: true, cell: each => duration(each.statistics?.latency_ms?.p99)},
    {key: "queue", title: t("services.queue"), cell: each => html`<${QueueDepth} service=${each} />`},
    {key: "replicas", title: t("services.replicas"), numeric: true, cell: each => number(each.replicas)},
    {key: "environment", title: t("services.environment"), cell: each => each.environment},
    {key: "host", title: t("services.host"), cell: each => each.host},
  ]
  if (!data) return html`<${Failure} error=${error} retry=${reload} />${!error && html`<${Waiting} />`}`
  const chosen = data.services.find(each => id(each) === open)
  return html`
    ${data.warnings.map(each => html`<p key=${each} class="notice bad">${each}</p>`)}
    ${data.services.length === 0
      ? html`<${Empty} title=${t("services.none")}><p>${t("services.none_hint")}</p><//>`
      : html`<${Table} label=${t("services.services")} columns=${columns} rows=${data.services} id=${id} onOpen=${each => setOpen(id(each))} />
        <p class="dim">${t("services.discovery_hint")}</p>`}
    ${chosen && html`<${OneService} service=${chosen} onClose=${() => setOpen("")} />`}`
}

const ServiceState = ({service: {state}}) => html`<${StateBadge} state=${state} tone=${state === "running" ? "good" : undefined} />`

const QueueDepth = ({service: {statistics, name}}) => statistics?.queue_size ? html`
  <span class="progress"><${Meter} value=${statistics.queue_depth} most=${statistics.queue_size} label=${name} />
    <span class="numeric">${number(statistics.queue_depth)} / ${number(statistics.queue_size)}</span></span>` : "–"

const OneService = ({service, onClose}) => html`
  <${Panel} title=${service.name} onClose=${onClose}>
    ${service.error && html`<p class="notice bad">${service.error}</p>`}
    <${Facts} items=${[
      [t("models.state"), html`<${ServiceState} service=${service} />`],
      [t("services.class"), service.class && html`<code>${service.class}</code>`],
      [t("services.environment"), service.environment],
      [t("services.node"), html`<code>${service.node}</code>`],
      [t("services.host"), service.host],
      [t("services.replicas"), number(service.replicas)],
      [t("services.calls"), number(service.statistics?.calls ?? 0)],
      [t("services.errors"), number(service.statistics?.errors ?? 0)],
      [t("services.mean"), duration(service.statistics?.latency_ms?.mean)],
      [t("services.half"), duration(service.statistics?.latency_ms?.p50)],
      [t("services.most"), duration(service.statistics?.latency_ms?.p99)],
      [t("services.queue"), html`<${QueueDepth} service=${service} />`],
      [t("services.workers"), `${number(service.statistics?.running ?? 0)} / ${number(service.statistics?.workers ?? 0)}`],
      [t("services.methods"), service.methods.join(", ")],
    ]} />
    ${service.health && html`<h3>${t("services.health")}</h3><${CodeBlock} language="JSON" text=${JSON.stringify(service.health, null, 2)} />`}
  <//>`
