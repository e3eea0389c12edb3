/** The services, and what memory, key-value store and vector database hold. */
import {PageHead} from "../../components/page_head.js"
import {Tabs} from "../../components/tabs.js"
import {html} from "../../core/html.js"
import {t} from "../../core/language.js"
import {may} from "../../core/session.js"
import {Entries} from "./entries.js"
import {Memories} from "./memories.js"
import {Running} from "./running.js"
import {Vectors} from "./vectors.js"

/** @type {[string, string, () => any][]} */
const TABS = [["services:read", "services.services", Running], ["memory", "services.memory", Memories], ["kv", "services.kv", Entries],
  ["vdb", "services.vectors", Vectors]]

export const Services = () => html`
  <${PageHead} title=${t("page.services")} hint=${t("services.hint")} />
  <${Tabs} label=${t("page.services")} tabs=${TABS.filter(([scope]) => may.peek()(scope))
    .map(([, name, View]) => ({name: t(name), body: () => html`<${View} key=${name} />`}))} />`
