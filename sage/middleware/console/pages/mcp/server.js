/** One MCP server: whether it answers, and its tools. */
import {Failure, Waiting} from "../../components/notice.js"
import {StateBadge} from "../../components/state_badge.js"
import {Table} from "../../components/table.js"
import {told} from "../../components/toast.js"
import {get, post} from "../../core/api.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {may} from "../../core/session.js"
import {OneTool} from "./one_tool.js"

export const path = (server, rest) => `/mcp/servers/${encodeURIComponent(server)}/${rest}`

export function Server({server, onChange}) {
  const {data, error, reload} = useLoaded(stop => get(path(server.name, "tools"), stop), [server.name, server.held])
  const [open, setOpen] = useState(null)
  const [failed, setFailed] = useState(undefined)
  const refresh = async () => {
    setFailed(undefined)
    try {
      await post(path(server.name, "refresh"))
      told(t("mcp.asked", {name: server.name}))
      setTimeout(() => { reload(); onChange() }, 1000)
    } catch (problem) {
      setFailed(problem)
    }
  }
  const columns = [
    {key: "tool", title: t("mcp.tool"), cell: tool => html`<strong>${tool.tool}</strong>`},
    {key: "state", title: t("models.state"), cell: tool => html`<${StateBadge} state=${tool.state} />`},
    {key: "description", title: t("mcp.description"), cell: tool => tool.definition.description ?? "–"},
    {key: "name", title: t("mcp.called"), cell: tool => html`<code>${tool.name}</code>`},
  ]
  return html`
    <section aria-label=${server.name}>
      <div class="title-row"><h2 class="name">${server.name}</h2><${StateBadge} state=${server.state} />
        <span class="dim">${server.transport} · ${t("mcp.tools", {count: server.tools})}${server.held ? ` · ${t("mcp.held", {count: server.held})}` : ""}</span>
        ${may.peek()("tools:write") && html`<button class="quiet small" onClick=${refresh}>${t("mcp.refresh")}</button>`}</div>
      ${server.error && html`<p class="notice bad name">${server.error}</p>`}
      ${server.left_out.map(each => html`<p key=${each} class="dim name">${each}</p>`)}
      <${Failure} error=${error ?? failed} retry=${reload} />
      ${!data ? !error && html`<${Waiting} />` : data.tools.length === 0 ? html`<p class="dim">${t("mcp.no_tools")}</p>`
        : html`<${Table} label=${server.name} columns=${columns} rows=${data.tools} id=${tool => tool.tool} onOpen=${setOpen} />`}
      ${open && html`<${OneTool} server=${server.name} tool=${open} onClose=${() => setOpen(null)} onChange=${() => { setOpen(null); reload(); onChange() }} />`}
    </section>`
}
