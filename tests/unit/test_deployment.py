"""What is deployed agrees with the contract and the settings: compose files, .env.example, Dockerfile.

No Docker engine is needed. What a file means is read from the file itself; `docker-compose config`, where the command
is installed, says besides that Compose accepts it.
"""

import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_cache.settings import Settings
from tests.dockerfile import ROOT, exec_form, is_in_context, last, read_stages

# Contract, section 6: names and defaults of these eleven are the owner's.
OWNERS_SETTINGS = {
    "KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
    "KAFKA_VALIDATED_DATA_TOPIC": "iot_validated_data",
    "KAFKA_ERROR_TOPIC": "iot_errors",
    "KAFKA_CONSUMER_GROUP_ID": "cache_service_group",
    "KAFKA_CONSUMER_POLL_TIMEOUT_S": "1.0",
    "REDIS_HOST": "redis",
    "REDIS_PORT": "6379",
    "REDIS_DB": "0",
    "REDIS_PASSWORD": "",
    "REDIS_METADATA_TTL": "86400",
    "LOG_LEVEL": "INFO",
}
SETTINGS = {field.metadata["env"]: field.default for field in fields(Settings)}
MAY_HOLD = {field.metadata["env"]: field.metadata["form"].may_hold for field in fields(Settings)}
# ${NAME:-default}, the only form of substitution that the files use; $$ is a plain $.
SUBSTITUTION = re.compile(r"\$\{(?P<name>\w+):-(?P<default>[^}]*)\}")


def read_compose(name: str = "docker-compose.yml") -> dict[str, Any]:
    """Read a compose file as Compose does in an empty environment."""
    text = SUBSTITUTION.sub(lambda match: match["default"], (ROOT / name).read_text(encoding="utf-8"))
    assert "${" not in text
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def read_env_example() -> dict[str, tuple[str, str]]:
    """Return value and comment by name; each variable must have its own comment line right above it."""
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    found: dict[str, tuple[str, str]] = {}
    for above, line in zip(["", *lines], lines, strict=False):
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            assert name not in found, f"{name} is there twice"
            found[name] = (value, above)
    return found


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = read_compose()["services"]
    return found


class TestEnvExample:
    def test_names__are_exactly_the_settings(self) -> None:
        assert set(read_env_example()) == set(SETTINGS)

    def test_owners_names__are_all_settings(self) -> None:
        assert set(OWNERS_SETTINGS) <= set(SETTINGS)

    @pytest.mark.parametrize("name", SETTINGS)
    def test_value__is_the_default(self, name: str) -> None:
        default = SETTINGS[name]
        assert default is not MISSING, f"{name} has no default"
        text, _ = read_env_example()[name]
        if isinstance(default, bool):
            assert text == str(default).lower()
        elif isinstance(default, (int, float)):
            assert float(text) == default
        else:
            assert text == default

    @pytest.mark.parametrize("name", OWNERS_SETTINGS)
    def test_owners_value__is_the_contracts(self, name: str) -> None:
        assert read_env_example()[name][0] == OWNERS_SETTINGS[name]

    @pytest.mark.parametrize("name", SETTINGS)
    def test_comment__says_what_it_does_and_what_it_may_hold(self, name: str) -> None:
        """One line: what it does; then what the settings say of unit and range, word by word."""
        _, comment = read_env_example()[name]
        assert re.match(r"# [A-Z]", comment)
        assert comment.endswith(f"; {MAY_HOLD[name]}.")

    def test_file__is_what_the_settings_read_as_their_defaults(self) -> None:
        assert Settings.from_env({name: value for name, (value, _) in read_env_example().items()}) == Settings()


class TestCompose:
    def test_redis(self, services: dict[str, Any]) -> None:
        redis = services["redis"]
        assert redis["image"] == "redis:7-alpine"
        assert redis["container_name"] == "redis"
        assert redis["ports"] == ["6379:6379"]
        assert redis["command"][:3] == ["redis-server", "--appendonly", "yes"]
        assert redis["volumes"] == ["redis-data:/data"]
        assert "redis-data" in read_compose()["volumes"]
        assert redis["healthcheck"]["test"][:2] == ["CMD", "redis-cli"]

    def test_redis__has_the_password_of_the_service(self) -> None:
        """REDIS_PASSWORD in .env must not lock the service out: both ends take the same one."""
        raw = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
        password = "${REDIS_PASSWORD:-}"
        assert raw["redis"]["command"][3:] == ["--requirepass", password]
        assert raw["redis"]["environment"]["REDISCLI_AUTH"] == password
        assert raw["cache_service"]["environment"]["REDIS_PASSWORD"] == password
        assert raw["fleet"]["environment"]["REDIS_PASSWORD"] == password

    def test_kafka__is_one_kraft_node_with_a_listener_for_each_side(self, services: dict[str, Any]) -> None:
        kafka = services["kafka"]
        environment = kafka["environment"]
        assert kafka["image"].startswith("apache/kafka:")
        assert set(environment["KAFKA_PROCESS_ROLES"].split(",")) == {"broker", "controller"}
        advertised = dict(each.split("://") for each in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))
        assert advertised["INTERNAL"] == OWNERS_SETTINGS["KAFKA_BOOTSTRAP_SERVERS"]
        host, port = advertised["HOST"].split(":")
        assert host == "localhost"
        assert kafka["ports"] == [f"127.0.0.1:{port}:{port}"]
        listeners = dict(each.split("://") for each in environment["KAFKA_LISTENERS"].split(","))
        protocols = dict(each.split(":") for each in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
        assert set(listeners) == set(protocols) == {"INTERNAL", "HOST", "CONTROLLER"}
        assert kafka["healthcheck"]["test"][1].startswith("/opt/kafka/bin/")

    def test_kafka_init__creates_both_topics_then_ends(self, services: dict[str, Any]) -> None:
        init = services["kafka-init"]
        assert init["environment"] == {"INPUT_TOPIC": "iot_validated_data", "ERROR_TOPIC": "iot_errors"}
        assert 'create "$$INPUT_TOPIC" 8\n' in init["command"][0]
        assert 'create "$$ERROR_TOPIC" 1\n' in init["command"][0]
        assert "--if-not-exists" in init["command"][0]
        assert init["restart"] == "no"

    def test_cache_service(self, services: dict[str, Any]) -> None:
        service = services["cache_service"]
        assert service["container_name"] == "cache_service"
        assert service["build"] == {"context": ".", "dockerfile": "docker/Dockerfile"}
        assert service["ports"] == ["6066:6066"]
        assert service["restart"] == "unless-stopped"
        assert int(service["stop_grace_period"].removesuffix("s")) >= 15
        assert "command" not in service, "the image's own command counts"
        assert "healthcheck" not in service, "the image's own health check counts"

    def test_cache_service__starts_after_what_it_needs(self, services: dict[str, Any]) -> None:
        assert services["cache_service"]["depends_on"] == {
            "redis": {"condition": "service_healthy"},
            "kafka": {"condition": "service_healthy"},
            "kafka-init": {"condition": "service_completed_successfully"},
        }

    def test_cache_service__gets_the_owners_settings_with_their_defaults(self, services: dict[str, Any]) -> None:
        environment = services["cache_service"]["environment"]
        assert {name: str(environment[name]) for name in OWNERS_SETTINGS if environment[name] is not None} == {
            name: value for name, value in OWNERS_SETTINGS.items() if value
        }
        assert environment["REDIS_PASSWORD"] is None, "an empty text, once substituted"

    def test_cache_service__gets_every_setting_and_no_other_variable(self, services: dict[str, Any]) -> None:
        assert set(services["cache_service"]["environment"]) == set(SETTINGS)

    @pytest.mark.parametrize("name", [*OWNERS_SETTINGS, "WEB_PORT"])
    def test_cache_service__setting_with_a_default_can_be_set(self, name: str) -> None:
        """Not fixed in the file: what the shell or .env says is what counts."""
        raw = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
        assert raw["services"]["cache_service"]["environment"][name].startswith(f"${{{name}:-")

    def test_fleet__is_in_the_profile_demo_only(self, services: dict[str, Any]) -> None:
        assert {name for name, service in services.items() if "profiles" in service} == {"fleet"}
        assert services["fleet"]["profiles"] == ["demo"]

    def test_fleet__feeds_kafka_from_an_image_with_the_demo_extra(self, services: dict[str, Any]) -> None:
        fleet = services["fleet"]
        demo = "python -m stream_cache demo --kafka kafka:9092 --redis redis:6379 --devices 1000 --rate 500"
        assert fleet["command"] == demo.split()
        assert fleet["build"] == {**services["cache_service"]["build"], "args": {"EXTRAS": "demo"}}
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert "demo" in project["optional-dependencies"]

    def test_fleet__leaves_the_service_alone(self, services: dict[str, Any]) -> None:
        """Another image's name, or building the one would replace the other; and nothing waits for the fleet."""
        assert services["fleet"]["image"] != services["cache_service"]["image"]
        assert services["fleet"]["healthcheck"] == {"disable": True}, "the image's asks for a web server"
        assert "container_name" not in services["fleet"]
        assert not any("fleet" in service.get("depends_on", {}) for service in services.values())

    def test_network__is_shared_by_all(self, services: dict[str, Any]) -> None:
        assert read_compose()["networks"] == {"preservarium_net": {"name": "preservarium_net"}}
        assert all(service["networks"] == ["preservarium_net"] for service in services.values())

    def test_root__is_read_only_and_only_tmp_is_writable(self, services: dict[str, Any]) -> None:
        """The service keeps nothing on disk (a test starts it in an empty folder and finds that empty afterwards)."""
        service = services["cache_service"]
        assert service["read_only"] is True
        assert service["tmpfs"] == ["/tmp"]

    def test_dev__runs_the_source_of_the_clone(self) -> None:
        override = read_compose("docker-compose.dev.yml")["services"]
        assert set(override) == {"cache_service"}
        service = override["cache_service"]
        assert service["environment"]["LOG_LEVEL"] == "DEBUG"
        assert service["volumes"] == [f"./stream_cache:{service['environment']['PYTHONPATH']}/stream_cache:ro"]


class TestComposeConfig:
    """The files as docker-compose itself reads them (1.27 or later; no engine is asked)."""

    @pytest.fixture
    def compose(self) -> list[str]:
        for command in (["docker-compose"], ["docker", "compose"]):
            if shutil.which(command[0]) is None:
                continue
            if subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0:
                return command
        pytest.skip("neither docker-compose nor docker compose is here: nothing but PyYAML has read the compose files")

    def configure(self, compose: list[str], env_file: Path, *arguments: str) -> dict[str, Any]:
        """Return the services as resolved with the settings of `env_file` and no others."""
        done = subprocess.run(
            [*compose, "--env-file", str(env_file), *arguments, "config"],
            cwd=ROOT,
            env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        services: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
        return services

    def test_config__accepts_the_files_and_keeps_the_profile_apart(self, compose: list[str], tmp_path: Path) -> None:
        empty = tmp_path / "env"
        empty.touch()
        services = self.configure(compose, empty, "-f", "docker-compose.yml")
        always = {"redis", "kafka", "kafka-init", "cache_service"}
        # Version 1 prints services of profiles that are off, too; it doesn't start them.
        assert always <= set(services) <= always | {"fleet"}
        demo = self.configure(compose, empty, "-f", "docker-compose.yml", "--profile", "demo")
        assert set(demo) == always | {"fleet"}
        environment = services["cache_service"]["environment"]
        assert {name: environment[name] for name in OWNERS_SETTINGS} == OWNERS_SETTINGS

    def test_config__accepts_the_development_override(self, compose: list[str], tmp_path: Path) -> None:
        empty = tmp_path / "env"
        empty.touch()
        services = self.configure(compose, empty, "-f", "docker-compose.yml", "-f", "docker-compose.dev.yml")
        service = services["cache_service"]
        assert service["environment"]["LOG_LEVEL"] == "DEBUG"
        assert service["environment"]["KAFKA_BOOTSTRAP_SERVERS"] == "kafka:9092"
        assert service["container_name"] == "cache_service"

    def test_config__each_setting_of_env_reaches_the_service(self, compose: list[str], tmp_path: Path) -> None:
        """Every setting, the ones that the file only hands on included."""
        wanted = {name: f"1{number}" for number, name in enumerate(SETTINGS)}
        env_file = tmp_path / "env"
        env_file.write_text("".join(f"{name}={value}\n" for name, value in wanted.items()), encoding="utf-8")
        services = self.configure(compose, env_file, "-f", "docker-compose.yml")
        environment = services["cache_service"]["environment"]
        assert {name: str(value) for name, value in environment.items()} == wanted
        [port] = services["cache_service"]["ports"]
        assert str(port["published"]) == str(port["target"]) == wanted["WEB_PORT"]


class TestDockerfile:
    def test_stages__build_and_run_apart_on_the_same_slim_python(self) -> None:
        build, final = read_stages()
        assert build[0].arguments == "python:3.11-slim AS build"
        assert final[0].arguments == "python:3.11-slim"
        copied = [each.arguments for each in final if each.name == "COPY"]
        assert copied == ["--from=build /opt/venv /opt/venv", "docker/healthcheck.py /opt/healthcheck.py"]

    def test_final_stage__installs_nothing(self) -> None:
        """No compiler, no package manager's work: what runs comes from the build stage."""
        runs = " ".join(each.arguments for each in read_stages()[-1] if each.name == "RUN")
        assert not re.search(r"\b(apt|apt-get|pip|gcc|build-essential)\b", runs)

    def test_build_stage__installs_what_the_lock_says(self) -> None:
        runs = [each.arguments for each in read_stages()[0] if each.name == "RUN"]
        installs = [each for each in runs if "pip" in each.split()]
        assert installs
        assert all("install -c requirements.lock" in each for each in installs)

    def test_cmd__is_the_contracts_in_exec_form(self) -> None:
        assert exec_form(last(read_stages()[-1], "CMD")) == ["faust", "-A", "stream_cache.app", "worker", "-l", "info"]

    def test_healthcheck__is_in_exec_form_and_has_time_for_its_answer(self) -> None:
        options, _, command = last(read_stages()[-1], "HEALTHCHECK").partition(" CMD ")
        assert exec_form(command) == ["python", "-I", "/opt/healthcheck.py"]
        timeout = re.search(r"--timeout=(\d+)s", options)
        assert timeout is not None
        assert int(timeout[1]) > 3, "the program itself takes 3 s at most"

    def test_user__is_not_root_and_a_number(self) -> None:
        """A name could not be checked by Kubernetes' runAsNonRoot."""
        user, group = last(read_stages()[-1], "USER").split(":")
        assert int(user) > 0
        assert int(group) > 0

    def test_stop_signal__is_sigterm(self) -> None:
        assert last(read_stages()[-1], "STOPSIGNAL") == "SIGTERM"

    def test_environment__fits_a_container(self) -> None:
        environment = " ".join(each.arguments for each in read_stages()[-1] if each.name == "ENV").split()
        assert {"PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1", "PATH=/opt/venv/bin:$PATH"} <= set(environment)

    def test_port__is_the_default(self) -> None:
        assert int(last(read_stages()[-1], "EXPOSE")) == SETTINGS["WEB_PORT"]

    @pytest.mark.parametrize(
        ("path", "is_in"),
        [
            ("pyproject.toml", True),
            ("requirements.lock", True),
            ("stream_cache/app.py", True),
            ("stream_cache/put_latest.lua", True),
            ("docker/healthcheck.py", True),
            ("stream_cache/__pycache__/app.cpython-311.pyc", False),
            (".env", False),
            (".git/config", False),
            ("tests/dockerfile.py", False),
            ("docker/Dockerfile", False),
        ],
    )
    def test_dockerignore__lets_through_what_is_copied(self, path: str, is_in: bool) -> None:  # noqa: FBT001 - a case
        assert is_in_context(path) is is_in


@pytest.mark.parametrize("name", ["docker/Dockerfile", "docker-compose.yml", "docker-compose.dev.yml"])
def test_images__come_by_plain_names(name: str) -> None:
    """No registry's host in any file."""
    text = (ROOT / name).read_text(encoding="utf-8")
    images = re.findall(r"^\s*(?:image:|FROM)\s+(\S+)", text, flags=re.MULTILINE)
    assert not [image for image in images if "." in image.split("/")[0] and "/" in image]
