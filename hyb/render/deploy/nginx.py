"""NGINX before the page, from one description: a site on a host without a cluster, or the container that ends TLS in
a pod.

Streams pass as they come; a question is read whole before the chat sees it. Who asks is told by NGINX alone: what a
client says about that is replaced. Headers that NGINX sets on its own answers, too, are taken out of the chat's, so
that each is there once. Works from NGINX 1.22 on. Source: https://nginx.org/en/docs/
"""

from __future__ import annotations

from collections.abc import Sequence

from hyb.render.deploy.base import LOOPBACK, settings
from hyb.render.deploy.facts import ANSWER_SECONDS, BODY_BYTES, BURST, DOOR_PORT, PEOPLE_PORT, RATE, DeployFacts

HEADERS = {
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
"""On every answer, NGINX's own errors too; the same as the chat's."""
CIPHERS = ":".join(
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for key in ("ECDSA", "RSA")
)
"""Of TLS 1.2: forward secrecy and authenticated encryption alone. TLS 1.3 has nothing else."""
CONNECTIONS = 50
"""Of one client at once."""
HEAD = """\
# NGINX before the chat page `{name}` at https://{host}/, written by hyb deploy.
"""


def site(
    facts: DeployFacts,
    *,
    port: int = 443,
    plain_port: int = 80,
    chat_port: int = PEOPLE_PORT,
    folder: str = "/etc/nginx/tls",
) -> str:
    """A site for `/etc/nginx/conf.d/`: TLS on `port`, plain HTTP on `plain_port` sent on.

    `chat_port`: where the chat listens on loopback. `folder`: of certificate and key, `HOST.crt` and `HOST.key`.
    """
    certificate = f"{folder}/{facts.host}"
    away = f"https://{facts.host}$request_uri" if port == 443 else f"https://{facts.host}:{port}$request_uri"
    redirect = _block(
        "server",
        [
            f"listen {plain_port};",
            f"listen [::]:{plain_port};",
            f"server_name {facts.host};",
            "server_tokens off;",
            f"return 308 {away};",
        ],
    )
    listen = [f"listen {port} ssl;", f"listen [::]:{port} ssl;"]
    lines = [*_shared(facts, chat_port), *redirect, *_server(facts, listen, f"{certificate}.crt", f"{certificate}.key")]
    return HEAD.format(name=facts.name, host=facts.host) + "\n" + "\n".join(lines) + "\n"


def whole(facts: DeployFacts, *, behind: Sequence[str] = ()) -> str:
    """The whole configuration of the container in the pod: it writes to /tmp alone.

    `behind`: networks of proxies before it, whose word for the client's address is taken.
    """
    temporary = [f"{kind}_temp_path /tmp/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")]
    real = [f"set_real_ip_from {network};" for network in behind]
    real += ["real_ip_header X-Forwarded-For;", "real_ip_recursive on;"] if behind else []
    folder = "/run/secrets/hyb/tls"
    server = _server(facts, [f"listen {DOOR_PORT} ssl;"], f"{folder}/tls.crt", f"{folder}/tls.key", door=True)
    inside = ["access_log off;", *temporary, *real, "", *_shared(facts), *server]
    lines = [
        "pid /tmp/nginx.pid;",
        "error_log /dev/stderr warn;",
        "worker_processes 1;",
        *_block("events", ["worker_connections 2048;"]),
        *_block("http", inside),
    ]
    return HEAD.format(name=facts.name, host=facts.host) + "\n" + "\n".join(lines) + "\n"


def _shared(facts: DeployFacts, chat_port: int = PEOPLE_PORT) -> list[str]:
    """What stands beside the servers. Names hold the chat's, for a host may have several."""
    name = _variable(facts.name)
    policy = "default-src 'none'; frame-ancestors 'none'"
    return [
        f"limit_req_zone $binary_remote_addr zone={name}_requests:10m rate={RATE}r/s;",
        f"limit_conn_zone $binary_remote_addr zone={name}_connections:10m;",
        "# The chat sends its own policy; NGINX's own answers get a closed one.",
        *_block(f"map $upstream_http_content_security_policy ${name}_policy", [f'"" "{policy}";', 'default "";']),
        *_block(f"upstream {name}", [f"server 127.0.0.1:{chat_port};", "keepalive 16;"]),
        "",
    ]


def _server(facts: DeployFacts, listen: list[str], certificate: str, key: str, *, door: bool = False) -> list[str]:
    name = _variable(facts.name)
    headers = [f'add_header {header} "{value}" always;' for header, value in HEADERS.items()]
    health = ["", *_block("location = /door", ["return 204;"])] if door else []  # what probes ask for
    return _block(
        "server",
        [
            *listen,
            f"server_name {facts.host};",
            "server_tokens off;",
            "",
            f"ssl_certificate {certificate};",
            f"ssl_certificate_key {key};",
            "ssl_protocols TLSv1.2 TLSv1.3;",
            f"ssl_ciphers {CIPHERS};",
            "ssl_prefer_server_ciphers off;",
            f"ssl_session_cache shared:{name}_tls:2m;",
            "ssl_session_timeout 1d;",
            "ssl_session_tickets off;",
            "",
            f"client_max_body_size {BODY_BYTES >> 10}k;",
            f"client_body_buffer_size {BODY_BYTES >> 10}k;  # a question never gets to a disk",
            "client_header_timeout 10s;",
            "client_body_timeout 20s;",
            "send_timeout 30s;",
            "keepalive_timeout 65s;",
            f"limit_req zone={name}_requests burst={BURST} nodelay;",
            "limit_req_status 429;",
            f"limit_conn {name}_connections {CONNECTIONS};",
            "limit_conn_status 429;",
            "",
            *headers,
            f"add_header Content-Security-Policy ${name}_policy always;",
            *health,
            "",
            *_block("location = /metrics", ["return 404;"]),
            "",
            *_block("location /", _passed(name)),
        ],
    )


def _passed(name: str) -> list[str]:
    return [
        f"proxy_pass http://{name};",
        "proxy_http_version 1.1;",
        'proxy_set_header Connection "";',
        "proxy_set_header Host $host;",
        "proxy_set_header X-Forwarded-For $remote_addr;",
        "proxy_set_header X-Forwarded-Proto https;",
        "proxy_set_header X-Forwarded-Host $host;",
        'proxy_set_header X-Forwarded-User "";',
        *(f"proxy_hide_header {header};" for header in HEADERS),
        "proxy_buffering off;  # every token at once",
        "proxy_next_upstream off;  # a question is asked once",
        "proxy_connect_timeout 2s;",
        f"proxy_read_timeout {ANSWER_SECONDS}s;",
        f"proxy_send_timeout {ANSWER_SECONDS}s;",
    ]


def _block(head: str, lines: list[str]) -> list[str]:
    return [f"{head} {{", *(f"    {line}" if line else "" for line in lines), "}"]


def _variable(name: str) -> str:
    """A name as NGINX's variables may have it."""
    return "hyb_" + name.replace("-", "_")


def environment(facts: DeployFacts) -> str:
    """The chat's settings on such a host, as a file for systemd or Podman. Nothing but NGINX reaches it."""
    own = {
        "HYB_CHAT_MODEL_URL": f"http://127.0.0.1:{facts.model_port}/v1",
        "HYB_CHAT_HOST": "127.0.0.1",
        "HYB_CHAT_TRUSTED_PROXIES": LOOPBACK,
    }
    return "".join(f"{key}={value}\n" for key, value in {**settings(facts), **own}.items())
