/** MCP servers and their tools, what has changed and waits to be accepted, and who has called what. */
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {PageHead} from "../../components/page_head.js"
import {Tabs} from "../../components/tabs.js"
import {get} from "../../core/api.js"
import {html, useLoaded} from "../../core/html.js"
import {t} from "../../core/language.js"
import {hasAccounts, may} from "../../core/session.js"
import {ToolCalls} from "./calls.js"
import {Held} from "./held.js"
import {Server} from "./server.js"

export function Mcp() {
  const {data, error, reload} = useLoaded(stop => get("/mcp/servers", stop))
  const head = html`<${PageHead} title=${t("page.mcp")} hint=${t("mcp.hint")} />`
  if (!data) return html`${head}<${Failure} error=${error} retry=${reload} />${!error && html`<${Waiting} />`}`
  const servers = () => data.servers.length === 0
    ? html`<${Empty} title=${t("mcp.none")}><p>${t("mcp.none_hint")}</p><//>`
    : data.servers.map(server => html`<${Server} key=${server.name} server=${server} onChange=${reload} />`)
  const held = data.servers.reduce((sum, server) => sum + server.held, 0)
  return html`${head}
    <${Tabs} label=${t("page.mcp")} tabs=${[
      {name: t("mcp.servers"), body: servers},
      {name: held ? `${t("mcp.waiting")} (${held})` : t("mcp.waiting"), body: () => html`<${Held} key=${held} servers=${data.servers} onChange=${reload} />`},
      ...(hasAccounts.peek() && may.peek()("tenant:admin") ? [{name: t("mcp.calls"), body: () => html`<${ToolCalls} />`}] : []),
    ]} />`
}
