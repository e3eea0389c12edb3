/** The pages, in the order of the menu, each with who may see it. */
import {Audit} from "./audit.js"
import {Connect} from "./connect.js"
import {Jobs} from "./jobs.js"
import {Keys} from "./keys.js"
import {Mcp} from "./mcp.js"
import {Models} from "./models.js"
import {Overview} from "./overview.js"
import {People} from "./people.js"
import {Playground} from "./playground.js"
import {Requests} from "./requests.js"
import {Search} from "./search.js"
import {Services} from "./services.js"
import {Usage} from "./usage.js"
import {hasAccounts} from "../core/session.js"

const all = (...scopes) => may => scopes.every(may)
const any = (...scopes) => may => scopes.some(may)

export const PAGES = [
  {name: "overview", view: Overview, isFor: all("models:read")},
  {name: "playground", view: Playground, isFor: all("generate", "models:read")},
  {name: "models", view: Models, isFor: all("models:read")},
  {name: "search", view: Search, isFor: all("search")},
  {name: "services", view: Services, isFor: any("services:read", "memory", "kv")},
  {name: "jobs", view: Jobs, isFor: all("tasks")},
  {name: "mcp", view: Mcp, isFor: all("admin")},
  {name: "requests", view: Requests, isFor: all("usage")},
  {name: "usage", view: Usage, isFor: all("usage")},
  {name: "keys", view: Keys, isFor: all("account")},
  {name: "people", view: People, isFor: may => hasAccounts.peek() && may("tenant:admin")},
  {name: "audit", view: Audit, isFor: may => hasAccounts.peek() && may("tenant:admin")},
  {name: "connect", view: Connect, isFor: all("models:read")},
]
