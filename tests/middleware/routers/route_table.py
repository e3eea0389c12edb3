"""Who reaches which route: method, path, roles, scope, name. One line for each route; ``public`` needs no credential.

A key reaches what its scopes say, whoever it belongs to. Handlers decide beyond that whose data a caller sees.
"""

from __future__ import annotations

from dataclasses import dataclass

_LINES = """
GET    /v1/models                                   admin,owner,user,viewer models:read       openai_models
GET    /v1/models/{model}                           admin,owner,user,viewer models:read       openai_model
POST   /v1/audio/speech                             admin,owner,user        generate          speech
POST   /v1/audio/transcriptions                     admin,owner,user        generate          transcriptions
POST   /v1/audio/translations                       admin,owner,user        generate          translations
POST   /v1/images/generations                       admin,owner,user        generate          image_generations
POST   /v1/images/edits                             admin,owner,user        generate          image_edits
POST   /v1/images/variations                        admin,owner,user        generate          image_variations
POST   /v1/moderations                              admin,owner,user        generate          moderations
POST   /v1/files                                    admin,owner,user        tasks             files_create
GET    /v1/files                                    admin,owner,user        tasks             files_list
GET    /v1/files/{file_id}                          admin,owner,user        tasks             files_get
GET    /v1/files/{file_id}/content                  admin,owner,user        tasks             files_content
DELETE /v1/files/{file_id}                          admin,owner,user        tasks             files_delete
POST   /v1/batches                                  admin,owner,user        tasks             batches_create
GET    /v1/batches                                  admin,owner,user        tasks             batches_list
GET    /v1/batches/{batch_id}                       admin,owner,user        tasks             batches_get
POST   /v1/batches/{batch_id}/cancel                admin,owner,user        tasks             batches_cancel
POST   /v1/vector_stores                            admin,owner,user        collections:write vector_stores_create
GET    /v1/vector_stores                            admin,owner,user,viewer search            vector_stores_list
GET    /v1/vector_stores/{store}                    admin,owner,user,viewer search            vector_stores_get
POST   /v1/vector_stores/{store}                    admin,owner,user        collections:write vector_stores_change
DELETE /v1/vector_stores/{store}                    admin,owner,user        collections:write vector_stores_delete
POST   /v1/vector_stores/{store}/search             admin,owner,user,viewer search            vector_stores_search
POST   /v1/vector_stores/{store}/files              admin,owner,user        collections:write store_files_create
GET    /v1/vector_stores/{store}/files              admin,owner,user,viewer search            store_files_list
GET    /v1/vector_stores/{store}/files/{file}       admin,owner,user,viewer search            store_files_get
POST   /v1/vector_stores/{store}/files/{file}       admin,owner,user        collections:write store_files_change
DELETE /v1/vector_stores/{store}/files/{file}       admin,owner,user        collections:write store_files_delete
GET    /v1/vector_stores/{store}/files/{file}/content admin,owner,user,viewer search            store_files_content
POST   /v1/vector_stores/{store}/file_batches       admin,owner,user        collections:write store_batches_create
GET    /v1/vector_stores/{store}/file_batches/{batch} admin,owner,user,viewer search            store_batches_get
POST   /v1/vector_stores/{store}/file_batches/{batch}/cancel admin,owner,user collections:write store_batches_cancel
GET    /v1/vector_stores/{store}/file_batches/{batch}/files admin,owner,user,viewer search store_batches_files
GET    /v1/responses/{response_id}                  admin,owner,user        generate          responses_get
DELETE /v1/responses/{response_id}                  admin,owner,user        generate          responses_delete
GET    /v1/responses/{response_id}/input_items      admin,owner,user        generate          responses_input_items
POST   /v1/responses/{response_id}/cancel           admin,owner,user        generate          responses_cancel
GET    /api/tags                                    admin,owner,user,viewer models:read       ollama_tags
GET    /api/ps                                      admin,owner,user,viewer models:read       ollama_ps
POST   /api/show                                    admin,owner,user,viewer models:read       ollama_show
GET    /api/version                                 admin,owner,user,viewer models:read       ollama_version
POST   /api/pull                                    admin                   models:write      ollama_pull
POST   /api/create                                  admin                   models:write      ollama_create
POST   /api/copy                                    admin                   models:write      ollama_copy
POST   /api/push                                    admin                   models:write      ollama_push
DELETE /api/delete                                  admin                   models:write      ollama_delete
POST   /api/blobs/{digest}                          admin                   models:write      ollama_blob
GET    /models                                      admin,owner,user,viewer models:read       models_list
POST   /models/{name}/load                          admin                   models:write      models_load
POST   /models/{name}/unload                        admin                   models:write      models_unload
POST   /models/{name}/explain                       admin,owner,user,viewer models:read       models_explain
POST   /models/{name}/pull                          admin                   models:write      models_pull
GET    /models/{name}                               admin,owner,user,viewer models:read       models_show
POST   /models/{name}                               admin                   models:write      models_register
PATCH  /models/{name}                               admin                   models:write      models_change
DELETE /models/{name}                               admin                   models:write      models_remove
POST   /collections/{collection}/documents          admin,owner,user        collections:write documents_add
GET    /collections/{collection}/documents          admin,owner,user,viewer search            documents_list
POST   /collections/{collection}/documents/delete   admin,owner,user        collections:write documents_delete_many
GET    /collections/{collection}/documents/{id}     admin,owner,user,viewer search            documents_show
DELETE /collections/{collection}/documents/{id}     admin,owner,user        collections:write documents_delete
GET    /collections                                 admin,owner,user,viewer search            collections_list
POST   /collections                                 admin,owner,user        collections:write collections_create
GET    /collections/{collection}                    admin,owner,user,viewer search            collections_show
DELETE /collections/{collection}                    admin,owner,user        collections:write collections_delete
POST   /collections/{collection}/reembed            admin,owner,user        collections:write collections_reembed
DELETE /collections/{collection}/reembed            admin,owner,user        collections:write collections_reembed_stop
POST   /collections/{collection}/optimize           admin,owner,user        collections:write collections_optimize
GET    /collections/{collection}/snapshot           admin,owner,user,viewer search            collections_snapshot
PUT    /collections/{collection}/snapshot           admin,owner,user        collections:write collections_restore
GET    /mcp/servers                                 admin,owner,user        tools             mcp_servers
GET    /mcp/servers/{name}/tools                    admin,owner,user        tools             mcp_server_tools
POST   /mcp/servers/{name}/accept                   admin                   tools:write       mcp_accept
POST   /mcp/servers/{name}/refresh                  admin                   tools:write       mcp_refresh
GET    /.well-known/oauth-protected-resource/mcp    public                  -                 mcp_metadata
GET    /.well-known/oauth-protected-resource        public                  -                 mcp_metadata_root
GET    /services                                    admin                   services:read     services_list
GET    /services/{name}                             admin                   services:read     services_show
GET    /health                                      public                  -                 health
GET    /ready                                       public                  -                 ready
GET    /metrics                                     admin                   metrics           metrics
GET    /metrics/live                                admin                   metrics           metrics_live
GET    /kv                                          admin,owner,user        kv                kv_list
DELETE /kv                                          admin,owner,user        kv                kv_clear
GET    /kv/{key}                                    admin,owner,user        kv                kv_get
PUT    /kv/{key}                                    admin,owner,user        kv                kv_put
DELETE /kv/{key}                                    admin,owner,user        kv                kv_delete
GET    /vdb                                         admin,owner,user        vdb               vdb_collections
POST   /vdb/{collection}                            admin,owner,user        vdb               vdb_add
POST   /vdb/{collection}/search                     admin,owner,user        vdb               vdb_search
POST   /vdb/{collection}/delete                     admin,owner,user        vdb               vdb_delete_many
GET    /vdb/{collection}                            admin,owner,user        vdb               vdb_list
DELETE /vdb/{collection}                            admin,owner,user        vdb               vdb_drop
GET    /vdb/{collection}/{id}                       admin,owner,user        vdb               vdb_get
PATCH  /vdb/{collection}/{id}                       admin,owner,user        vdb               vdb_update
DELETE /vdb/{collection}/{id}                       admin,owner,user        vdb               vdb_delete
POST   /memory                                      admin,owner,user        memory            memory_store
POST   /memory/search                               admin,owner,user        memory            memory_search
GET    /memory/sessions                             admin,owner,user        memory            memory_sessions
GET    /memory/sessions/{session}                   admin,owner,user        memory            memory_session
DELETE /memory/sessions/{session}                   admin,owner,user        memory            memory_clear_session
GET    /memory/{id}/history                         admin,owner,user        memory            memory_history
POST   /memory/{id}/restore                         admin,owner,user        memory            memory_restore
GET    /memory/{id}                                 admin,owner,user        memory            memory_get
DELETE /memory                                      admin,owner,user        memory            memory_forget
DELETE /memory/{id}                                 admin,owner,user        memory            memory_delete
POST   /tasks/generate                              admin,owner,user        tasks             tasks_generate
POST   /tasks/embed                                 admin,owner,user        tasks             tasks_embed
POST   /tasks/evaluate                              admin,owner,user        tasks             tasks_evaluate
POST   /tasks/ingest                                admin,owner,user        tasks             tasks_ingest
POST   /tasks/reembed                               admin,owner,user        tasks             tasks_reembed
POST   /tasks/snapshot                              admin,owner,user        tasks             tasks_snapshot
GET    /tasks                                       admin,owner,user        tasks             tasks_list
GET    /tasks/{id}                                  admin,owner,user        tasks             tasks_show
GET    /tasks/{id}/results                          admin,owner,user        tasks             tasks_results
GET    /tasks/{id}/events                           admin,owner,user        tasks             tasks_events
POST   /tasks/{id}/cancel                           admin,owner,user        tasks             tasks_cancel
POST   /tasks/{id}/retry                            admin,owner,user        tasks             tasks_retry
DELETE /tasks/{id}                                  admin,owner,user        tasks             tasks_delete
GET    /schedules                                   admin,owner,user        tasks             schedules_list
POST   /schedules/{name}/run                        admin,owner,user        tasks             schedules_run
POST   /worker/hello                                admin                   worker            worker_hello
POST   /worker/goodbye                              admin                   worker            worker_goodbye
POST   /worker/lost                                 admin                   worker            worker_lost
POST   /worker/claim                                admin                   worker            worker_claim
POST   /worker/runs/{run}/renew                     admin                   worker            worker_renew
POST   /worker/runs/{run}/items                     admin                   worker            worker_items
POST   /worker/runs/{run}/results                   admin                   worker            worker_record
GET    /worker/runs/{run}/results                   admin                   worker            worker_results
GET    /worker/runs/{run}/sources/{number}          admin                   worker            worker_source
POST   /worker/finish                               admin                   worker            worker_finish
POST   /worker/schedules/{name}/{due}               admin                   worker            worker_schedule
GET    /usage                                       admin,owner,user,viewer usage             usage
GET    /usage/requests                              admin,owner,user,viewer usage             usage_requests
GET    /usage/timeline                              admin,owner,user,viewer usage             usage_timeline
GET    /usage/requests/{id}/texts                   admin,owner             tenant:admin      usage_texts
DELETE /usage                                       admin,owner             tenant:admin      usage_erase
GET    /budgets                                     admin,owner,user,viewer usage             budgets_list
PUT    /budgets/{kind}/{name}                       admin,owner             tenant:admin      budgets_put
DELETE /budgets/{kind}/{name}                       admin,owner             tenant:admin      budgets_delete
GET    /limits                                      admin,owner,user,viewer usage             limits_list
GET    /audit/verify                                admin                   admin             audit_verify
GET    /audit                                       admin,owner             tenant:admin      audit
GET    /settings                                    admin                   admin             settings_list
POST   /settings/reload                             admin                   admin             settings_reload
POST   /auth/token                                  public                  -                 auth_token
POST   /auth/flower                                 admin                   admin             auth_flower
GET    /auth/oidc/callback                          public                  -                 auth_oidc_callback
GET    /auth/oidc/login                             public                  -                 auth_oidc_login
POST   /auth/refresh                                public                  -                 auth_refresh
POST   /auth/logout                                 admin,owner,user,viewer account           auth_logout
POST   /auth/setup                                  public                  -                 auth_setup
GET    /auth/options                                public                  -                 auth_options
GET    /.well-known/jwks.json                       public                  -                 jwks
GET    /auth/me                                     admin,owner,user,viewer account           auth_me
POST   /auth/password                               admin,owner,user,viewer account           auth_password
GET    /auth/keys                                   admin,owner,user,viewer account           auth_keys_list
POST   /auth/keys                                   admin,owner,user,viewer account           auth_keys_create
GET    /auth/keys/{id}                              admin,owner,user,viewer account           auth_keys_show
PATCH  /auth/keys/{id}                              admin,owner,user,viewer account           auth_keys_change
POST   /auth/keys/{id}/rotate                       admin,owner,user,viewer account           auth_keys_rotate
DELETE /auth/keys/{id}                              admin,owner,user,viewer account           auth_keys_revoke
GET    /auth/users                                  admin,owner             tenant:admin      auth_users_list
POST   /auth/users                                  admin,owner             tenant:admin      auth_users_create
PATCH  /auth/users                                  admin,owner             tenant:admin      auth_users_change
GET    /auth/teams                                  admin,owner             tenant:admin      auth_teams_list
POST   /auth/teams                                  admin                   admin             auth_teams_create
GET    /auth/teams/{id}                             admin,owner             tenant:admin      auth_teams_show
PATCH  /auth/teams/{id}                             admin,owner             tenant:admin      auth_teams_change
DELETE /auth/teams/{id}                             admin                   admin             auth_teams_delete
POST   /generate                                    admin,owner,user        generate          generate
POST   /v1/chat/completions                         admin,owner,user        generate          chat_completions
POST   /v1/responses                                admin,owner,user        generate          responses_create
POST   /v1/completions                              admin,owner,user        generate          completions
POST   /v1/embeddings                               admin,owner,user        generate          embeddings
POST   /v1/rerank                                   admin,owner,user        generate          rerank
POST   /v2/rerank                                   admin,owner,user        generate          cohere_rerank
POST   /v2/chat                                     admin,owner,user        generate          cohere_chat
POST   /v2/embed                                    admin,owner,user        generate          cohere_embed
POST   /v1/messages                                 admin,owner,user        generate          anthropic_messages
POST   /v1/messages/count_tokens                    admin,owner,user        generate          anthropic_count_tokens
POST   /api/chat                                    admin,owner,user        generate          ollama_chat
POST   /api/generate                                admin,owner,user        generate          ollama_generate
POST   /api/embed                                   admin,owner,user        generate          ollama_embed
POST   /api/embeddings                              admin,owner,user        generate          ollama_embeddings
POST   /v1/score                                    admin,owner,user        generate          score
POST   /v1/tokenize                                 admin,owner,user        generate          tokenize
POST   /v1/detokenize                               admin,owner,user        generate          detokenize
POST   /search                                      admin,owner,user,viewer search            search
POST   /search/batch                                admin,owner,user,viewer search            search_batch
"""


@dataclass(frozen=True)
class DeclaredRoute:
    """``roles`` is empty, and ``scope`` is ``-``, for a route that everybody reaches."""

    method: str
    path: str
    roles: frozenset[str]
    scope: str
    name: str

    @classmethod
    def read(cls, line: str) -> DeclaredRoute:
        method, path, who, scope, name = line.split()
        return cls(method, path, frozenset() if who == "public" else frozenset(who.split(",")), scope, name)


ROUTES = {route.name: route for line in _LINES.strip().splitlines() for route in [DeclaredRoute.read(line)]}
