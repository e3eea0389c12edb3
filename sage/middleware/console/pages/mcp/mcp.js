/** MCP servers, their tools, and what has changed and waits to be accepted. */
import {CodeBlock} from "../../components/copyable.js"
import {Dialog} from "../../components/dialog.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {StateBadge} from "../../components/state_badge.js"
import {Table} from "../../components/table.js"
import {get, post} from "../../core/api.js"
import {number} from "../../core/format.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"

export function Mcp() {
  const {data, error, reload} = useLoaded(stop => get("/mcp/servers", stop))
  return html`
    <h1>${t("page.mcp")}</h1>
    <${Failure} error=${error} retry=${reload} />
    ${!data ? !error && html`<${Waiting} />` : data.servers.length === 0
      ? html`<${Empty} title=${t("mcp.none")}><p>${t("mcp.none_hint")}</p><//>`
      : data.servers.map(server => html`<${Server} key=${server.name} server=${server} />`)}`
}

function Server({server}) {
  const {data, error, reload} = useLoaded(stop => get(`/mcp/servers/${encodeURIComponent(server.name)}/tools`, stop), [server.name])
  const [open, setOpen] = useState(null)
  const [failed, setFailed] = useState(undefined)
  const accept = async tool => {
    setFailed(undefined)
    try {
      await post(`/mcp/servers/${encodeURIComponent(server.name)}/accept`, {tools: [{tool: tool.tool, digest: tool.digest}]})
    } catch (problem) {
      setFailed(problem)
    }
    setOpen(null)
    reload()
  }
  const columns = [
    {key: "tool", title: t("mcp.tool"), cell: tool => tool.tool},
    {key: "state", title: t("models.state"), cell: tool => html`<${StateBadge} state=${tool.state} />`},
    {key: "description", title: t("mcp.description"), cell: tool => tool.definition.description ?? "–"},
  ]
  return html`
    <section aria-label=${server.name}>
      <div class="title-row"><h2>${server.name}</h2><${StateBadge} state=${server.state} />
        <span class="dim">${server.transport} · ${t("mcp.tools", {count: server.tools})}${server.held ? ` · ${t("mcp.held", {count: number(server.held)})}` : ""}</span></div>
      ${server.error && html`<p class="notice bad">${server.error}</p>`}
      <${Failure} error=${error ?? failed} retry=${reload} />
      ${data && html`<${Table} label=${server.name} columns=${columns} rows=${data.tools} id=${tool => tool.tool} onOpen=${setOpen} />`}
      ${open && html`
        <${Dialog} title=${open.name} onClose=${() => setOpen(null)}>
          <${CodeBlock} language="JSON" text=${JSON.stringify(open.definition, null, 2)} />
          ${open.digest !== open.accepted_digest && html`<p>${t("mcp.accept_hint")}</p>`}
          <div class="actions"><button class="quiet" onClick=${() => setOpen(null)}>${t("action.close")}</button>
            ${open.digest !== open.accepted_digest && html`<button class="primary" onClick=${() => accept(open)}>${t("mcp.accept")}</button>`}</div>
        <//>`}
    </section>`
}
