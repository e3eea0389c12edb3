/** One tool: what it says of itself, as it was accepted and as it is offered now, side by side; accepting it. */
import {CodeBlock} from "../../components/copyable.js"
import {Facts} from "../../components/facts.js"
import {Failure} from "../../components/notice.js"
import {Panel} from "../../components/panel.js"
import {StateBadge} from "../../components/state_badge.js"
import {told} from "../../components/toast.js"
import {When} from "../../components/when.js"
import {post} from "../../core/api.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {may} from "../../core/session.js"
import {SideBySide} from "./side_by_side.js"

/** Its definition, what it says of itself first. */
const text = definition => {
  const {name, description, ...rest} = definition
  return JSON.stringify({name, description, ...rest}, null, 2)
}

export function OneTool({server, tool, onClose, onChange}) {
  const [failed, setFailed] = useState(undefined)
  const waits = tool.digest !== tool.accepted_digest
  const accept = async () => {
    try {
      await post(`/mcp/servers/${encodeURIComponent(server)}/accept`, {tools: [{tool: tool.tool, digest: tool.digest}]})
      told(t("mcp.was_accepted", {name: tool.tool}))
      onChange()
    } catch (problem) {
      setFailed(problem)
    }
  }
  return html`
    <${Panel} title=${tool.name} onClose=${onClose}>
      <${Facts} items=${[
        [t("mcp.server"), server],
        [t("models.state"), html`<${StateBadge} state=${tool.state} />`],
        [t("mcp.accepted"), tool.accepted_at && html`<${When} at=${tool.accepted_at} /> · ${tool.accepted_by}`],
      ]} />
      ${waits && tool.accepted_digest ? tool.accepted_definition
          ? html`<${SideBySide} before=${text(tool.accepted_definition)} after=${text(tool.definition)} />`
          : html`<p class="notice">${t("mcp.form_unknown")}</p><${CodeBlock} language=${t("mcp.offered_now")} text=${text(tool.definition)} />`
        : html`<p class="text">${tool.definition.description}</p><${CodeBlock} language="JSON" text=${text(tool.definition)} />`}
      <${Failure} error=${failed} />
      ${waits && html`<p>${t("mcp.accept_hint")}</p>
        ${may.peek()("tools:write") ? html`<div class="actions"><button class="primary" onClick=${accept}>${t("mcp.accept")}</button></div>`
          : html`<p class="dim">${t("mcp.admin_accepts")}</p>`}`}
    <//>`
}
