/** One's own account: what it may do, its limits, and a new password. */
import {limitText} from "../../components/budget_fields.js"
import {Facts} from "../../components/facts.js"
import {Field} from "../../components/field.js"
import {Form} from "../../components/form_dialog.js"
import {PageHead} from "../../components/page_head.js"
import {told} from "../../components/toast.js"
import {post} from "../../core/api.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {me} from "../../core/session.js"
import {PasswordField} from "./one_user.js"
import {ScopeList, patternText} from "./rights.js"

export function Account() {
  const user = /** @type {any} */ (me.peek())
  const [turn, setTurn] = useState(0)
  const change = async form => {
    if (form.get("new") !== form.get("again")) throw new Error(t("account.differ"))
    const done = await post("/auth/password", {current: form.get("current"), new: form.get("new"), revoke_keys: form.get("revoke_keys") === "on"})
    told(t("account.changed", {sessions: done.ended_sessions, keys: done.revoked_keys}))
    setTurn(turn + 1) // with empty fields
  }
  return html`
    <${PageHead} title=${t("page.account")} />
    <${Facts} items=${[
      [t("people.user"), user.user],
      [t("people.role"), t(`role.${user.role}`)],
      [t("people.team"), user.tenant],
      [t("keys.rights"), html`<${ScopeList} scopes=${user.scopes} />`],
      [t("keys.models"), patternText((user.models ?? ["*"]).includes("*") ? user.team_models ?? ["*"] : user.models)],
      ...Object.entries(user.limits ?? {}).map(([subject, limits]) => [`${t("page.limits")}: ${subject}`, limitText(limits)]),
    ]} />
    <section class="narrow-form" aria-labelledby="new-password"><h2 id="new-password">${t("account.password")}</h2>
      <p class="dim">${t("account.hint")}</p>
      <${Form} key=${turn} action=${t("account.change")} done=${t("state.saved")} send=${change}>
        <${Field} label=${t("account.current")}>${field => html`<input ...${field} name="current" type="password" required autocomplete="current-password" />`}<//>
        <${PasswordField} label=${t("account.new")} name="new" />
        <${Field} label=${t("account.again")}>${field => html`<input ...${field} name="again" type="password" required autocomplete="new-password" />`}<//>
        <label class="check"><input type="checkbox" name="revoke_keys" /> ${t("account.revoke_keys")}</label>
      <//></section>`
}
