/** The user's API keys: made, with rights in words, and revoked. */
import {Confirm} from "../../components/dialog.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {Table} from "../../components/table.js"
import {When} from "../../components/when.js"
import {get, remove} from "../../core/api.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {hasAccounts} from "../../core/session.js"
import {NewKey} from "./new_key.js"

export function Keys() {
  if (!hasAccounts.peek()) return html`<h1>${t("page.keys")}</h1><${Empty} title=${t("keys.open")}><p>${t("keys.open_hint")}</p><//>`
  return html`<${OwnKeys} />`
}

function OwnKeys() {
  const {data, error, reload} = useLoaded(stop => get("/auth/keys", stop))
  const [making, setMaking] = useState(false)
  const [revoking, setRevoking] = useState(null)
  const keys = data?.keys.filter(key => key.revoked_at === null)
  const columns = [
    {key: "name", title: t("keys.name"), cell: key => key.name || html`<span class="dim">${t("keys.unnamed")}</span>`},
    {key: "last4", title: t("keys.key"), cell: key => html`<code>…${key.last4}</code>`},
    {key: "rights", title: t("keys.rights"), cell: key => html`<span title=${key.scopes.join(", ")}>${rights(key)}</span>`},
    {key: "models", title: t("keys.models"), cell: key => key.models.includes("*") ? t("keys.all_models") : key.models.join(", ")},
    {key: "used", title: t("keys.last_used"), cell: key => html`<${When} at=${key.last_used_at} />`},
    {key: "ends", title: t("keys.expires"), cell: key => key.expires_at === null ? t("keys.never") : html`<${When} at=${key.expires_at} />`},
    {key: "act", title: t("keys.actions"), cell: key => html`
      <button class="quiet small" onClick=${() => setRevoking(key)}>${t("keys.revoke")}</button>`},
  ]
  return html`
    <div class="title-row"><h1>${t("page.keys")}</h1>
      <button class="primary" onClick=${() => setMaking(true)}>${t("keys.make")}</button></div>
    <${Failure} error=${error} retry=${reload} />
    ${!keys ? !error && html`<${Waiting} />` : keys.length === 0
      ? html`<${Empty} title=${t("keys.none")}><p>${t("keys.none_hint")}</p><//>`
      : html`<${Table} label=${t("page.keys")} columns=${columns} rows=${keys} id=${key => key.id} />`}
    ${making && html`<${NewKey} onClose=${() => { setMaking(false); reload() }} />`}
    ${revoking && html`<${Confirm} title=${t("keys.revoke_title", {name: revoking.name || `…${revoking.last4}`})}
      lost=${t("keys.revoke_lost")} action=${t("keys.revoke")} onClose=${() => setRevoking(null)}
      onConfirm=${async () => { await remove(`/auth/keys/${revoking.id}`); reload() }} />`}`
}

/** The scopes of a key in words: the first ones, and how many more. */
export function rights({scopes}) {
  const words = scopes.map(scope => t(`scope.${scope}`))
  return words.length <= 2 ? words.join(", ") : t("keys.and_more", {first: words[0], count: words.length - 1})
}
