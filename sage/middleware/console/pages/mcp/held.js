/** The tools that wait: new ones, and those that are no longer what was accepted. */
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {StateBadge} from "../../components/state_badge.js"
import {Table} from "../../components/table.js"
import {When} from "../../components/when.js"
import {get} from "../../core/api.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {OneTool} from "./one_tool.js"
import {path} from "./server.js"

const load = servers => async stop => {
  const all = await Promise.all(servers.filter(server => server.held > 0).map(async ({name}) =>
    (await get(path(name, "tools"), stop)).tools.map(tool => ({...tool, server: name}))))
  return all.flat().filter(tool => tool.state === "new" || tool.state === "changed")
}

export function Held({servers, onChange}) {
  const {data, error, reload} = useLoaded(load(servers))
  const [open, setOpen] = useState(null)
  const columns = [
    {key: "server", title: t("mcp.server"), cell: tool => tool.server},
    {key: "tool", title: t("mcp.tool"), cell: tool => html`<strong>${tool.tool}</strong>`},
    {key: "state", title: t("models.state"), cell: tool => html`<${StateBadge} state=${tool.state} />`},
    {key: "accepted", title: t("mcp.accepted"), cell: tool => html`<${When} at=${tool.accepted_at} />`},
    {key: "description", title: t("mcp.offered_now"), cell: tool => tool.definition.description ?? "–"},
  ]
  return html`
    <${Failure} error=${error} retry=${reload} />
    ${!data ? !error && html`<${Waiting} />` : data.length === 0
      ? html`<${Empty} title=${t("mcp.nothing_waits")}><p>${t("mcp.nothing_waits_hint")}</p><//>`
      : html`<p class="dim">${t("mcp.accept_hint")}</p>
        <${Table} label=${t("mcp.waiting")} columns=${columns} rows=${data} id=${tool => tool.name} onOpen=${setOpen} />`}
    ${open && html`<${OneTool} server=${open.server} tool=${open} onClose=${() => setOpen(null)} onChange=${() => { setOpen(null); reload(); onChange() }} />`}`
}
