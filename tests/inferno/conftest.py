"""Three servers that the kit's tests are run against, all over TLS."""

import json
import ssl
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from joserfc.jwk import ECKey, KeySet, RSAKey

from tests.inferno.kit import Export, Kit, Target
from tests.processes import Site
from tests.proxies import Proxy
from tests.services import a_bucket, free_port

SERVERS = ["embedded", "protected", "keycloak"]
"""
The embedded issuer with SQLite and local files; the same with PostgreSQL and files that need a
token because it is set so; Keycloak with PostgreSQL and files in a bucket, by signed links.
"""
CLIENT = "inferno"
GROUP = "1a"
PATIENTS = ("p1", "p2", "p3")


def resources():
    """Return a small clinic: three patients, what was seen of them, and a group of two."""
    text = {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">x</div>'}
    yield {"resourceType": "Organization", "id": "o1", "name": "Clinic"}
    for number, patient in enumerate(PATIENTS):
        subject = {"reference": f"Patient/{patient}"}
        yield {
            "resourceType": "Patient",
            "id": patient,
            "text": text,
            "name": [{"family": "Doe", "given": [patient]}],
            "gender": "unknown",
            "birthDate": f"19{60 + number}-01-31",
            "managingOrganization": {"reference": "Organization/o1"},
        }
        yield {
            "resourceType": "Observation",
            "id": f"obs-{patient}",
            "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
            "subject": subject,
            "effectiveDateTime": "2026-01-02T03:04:05Z",
            "valueQuantity": {"value": 61.50, "unit": "/min"},
        }
        yield {
            "resourceType": "Condition",
            "id": f"con-{patient}",
            "code": {"text": "Asthma"},
            "subject": subject,
        }
    members = [{"entity": {"reference": f"Patient/{patient}"}} for patient in PATIENTS[:2]]
    yield {
        "resourceType": "Group",
        "id": GROUP,
        "type": "person",
        "actual": True,
        "member": members,
    }


class Certificates:
    """An authority of the test run, and a certificate of this machine."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        self.authority = str(folder / "authority.pem")
        self.certificate = str(folder / "certificate.pem")
        self.key = str(folder / "key.pem")
        authority.cert_pem.write_to_path(self.authority)
        Path(self.certificate).write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(self.key)

    @property
    def settings(self):
        return {"HFS_TLS_CERT": self.certificate, "HFS_TLS_KEY": self.key}

    def before(self, url):
        """Return a proxy that ends TLS in front of a server that has none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate, self.key)
        parts = urlsplit(url)
        return Proxy((parts.hostname, parts.port), tls=context)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


@contextmanager
def a_site(folder, certificates, **settings):
    """Load the clinic into a new site, and end all its processes afterwards."""
    site = Site(folder, **certificates.settings, SSL_CERT_FILE=certificates.authority, **settings)
    source = folder / "clinic.ndjson"
    source.write_text("".join(f"{json.dumps(resource)}\n" for resource in resources()))
    try:
        site.run("migrate")
        site.run("load", str(source))
        yield site
    finally:
        site.end()


def key_pairs():
    """Return a key for each algorithm that SMART names, as the kit has."""
    return {
        "ES384": ECKey.generate_key("P-384", {"alg": "ES384", "use": "sig"}, auto_kid=True),
        "RS384": RSAKey.generate_key(2048, {"alg": "RS384", "use": "sig"}, auto_kid=True),
    }


@contextmanager
def embedded(folder, certificates, **settings):
    """Serve with the embedded issuer, and one registered client."""
    keys = key_pairs()
    public = folder / "public.json"
    public.write_text(json.dumps(KeySet(list(keys.values())).as_dict(private=False)))
    authentication = {"HFS_AUTH_ENABLED": "true", "HFS_AUTH_PROVIDER": "smart"}
    with a_site(folder, certificates, **authentication, **settings) as site:
        site.run("clients", "add", CLIENT, "--jwks", str(public), "--scope", "system/*.read")
        _, client = site.serve()
        yield Target(client.base_url, GROUP, CLIENT, keys["ES384"])


@contextmanager
def by_keycloak(folder, certificates, server, **settings):
    """Serve with the tokens of Keycloak, whose clients have to say when they signed."""
    base = f"https://127.0.0.1:{free_port()}"
    with certificates.before(server.url) as front, server.realm(audience=base) as realm:
        server.admin("PUT", f"/{realm.name}", json={"attributes": {"frontendUrl": front.url}})
        authentication = {
            "HFS_SERVER_PORT": base.rpartition(":")[2],
            "HFS_BASE_URL": base,
            "HFS_AUTH_ENABLED": "true",
            "HFS_AUTH_PROVIDER": "keycloak",
            "HFS_AUTH_ISSUER": realm.url(front.url),
            "HFS_AUTH_AUDIENCE": base,
        }
        with a_site(folder, certificates, **authentication, **settings) as site:
            site.serve()
            key = next(key for key in realm.keys["backend-inline"] if key.alg == "ES384")
            yield Target(base, GROUP, "backend-inline", key, issued_at=True)


@pytest.fixture(scope="session", params=SERVERS)
def kit(request, tmp_path_factory, certificates):
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        if request.param == "embedded":
            opened = embedded(folder, certificates)
        else:
            postgres = request.getfixturevalue("postgres_server")
            settings = {
                "HFS_STORAGE_BACKEND": "postgres",
                "HFS_DATABASE_URL": stack.enter_context(postgres.database()),
            }
            if request.param == "protected":
                settings["HFS_BULK_EXPORT_REQUIRES_ACCESS_TOKEN"] = "true"
                opened = embedded(folder, certificates, **settings)
            else:
                bucket = stack.enter_context(a_bucket(request.getfixturevalue("minio_server")))
                front = stack.enter_context(certificates.before(bucket.endpoint))
                settings |= bucket.settings | {
                    "HFS_BULK_EXPORT_S3_ENDPOINT": front.url,
                    "AWS_CA_BUNDLE": certificates.authority,
                }
                server = request.getfixturevalue("keycloak_server")
                opened = by_keycloak(folder, certificates, server, **settings)
        opened = stack.enter_context(opened)
        kit = Kit(opened, authority=certificates.authority)
        stack.callback(kit.close)
        yield kit


@pytest.fixture(scope="session")
def exports(kit):
    """Export a level once, and download all its files."""
    done: dict[str, Export] = {}

    def exported(level):
        if level not in done:
            export = kit.export(level)
            manifest = export.status.json()
            export.outputs = manifest["output"]
            export.requires_access_token = manifest["requiresAccessToken"]
            headers = kit.bearer if export.requires_access_token else {}
            for item in export.outputs:
                response = kit.download(item["url"], headers)
                assert response.status_code == 200
                assert response.headers["content-type"].startswith("application/fhir+ndjson")
                export.lines += [(item["type"], line) for line in response.content.splitlines()]
            done[level] = export
        return done[level]

    return exported
