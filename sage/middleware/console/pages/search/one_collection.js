/** One collection: searching it, its documents, adding files, how it is made. */
import {Failure, Waiting} from "../../components/notice.js"
import {PageHead} from "../../components/page_head.js"
import {Tabs} from "../../components/tabs.js"
import {get} from "../../core/api.js"
import {useEvery} from "../../core/every.js"
import {html, useLoaded} from "../../core/html.js"
import {t} from "../../core/language.js"
import {address} from "../../core/router.js"
import {may} from "../../core/session.js"
import {path} from "./collection_path.js"
import {CollectionSettings} from "./collection_settings.js"
import {Documents} from "./documents.js"
import {ReembedProgress} from "./reembed.js"
import {SearchForm} from "./search_form.js"
import {Upload} from "./upload.js"

export function OneCollection({name}) {
  const {data, error, reload} = useLoaded(stop => get(path(name), stop), [name])
  useEvery(reload, !!data?.reembedding?.running)
  const back = html`<p><a href=${address("search")}>← ${t("search.back")}</a></p>`
  if (!data) return html`${back}<h1 class="name">${name}</h1><${Failure} error=${error} retry=${reload} />${!error && html`<${Waiting} />`}`
  const writes = may.peek()("collections:write")
  const tabs = [
    {name: t("search.search"), body: () => html`<${SearchForm} collection=${data} />`},
    {name: t("search.documents_tab"), body: () => html`<${Documents} name=${name} writes=${writes} onChange=${reload} />`},
    ...(writes && may.peek()("tasks") ? [{name: t("search.add"), body: () => html`<${Upload} collection=${name} onDone=${reload} />`}] : []),
    {name: t("search.settings"), body: () => html`<${CollectionSettings} collection=${data} writes=${writes} onChange=${reload} />`},
  ]
  return html`
    ${back}
    <${PageHead} title=${name} hint=${`${t("search.documents", {count: data.documents ?? 0})} · ${data.embedder ?? t("search.keywords_only")}`} />
    ${(data.warnings ?? []).map(each => html`<p key=${each} class="notice">${each}</p>`)}
    ${data.reembedding && html`<${ReembedProgress} collection=${data} writes=${writes} onChange=${reload} />`}
    <${Tabs} label=${name} tabs=${tabs} />`
}
