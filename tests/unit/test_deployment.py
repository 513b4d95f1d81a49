"""What is deployed agrees with the contract and the settings: compose files, Dockerfile.

No Docker engine is needed. What a file means is read from the file itself; `docker-compose config`, where the command
is installed, says besides that Compose accepts it.
"""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_cache.settings import VARIABLES
from tests.compose import read_services
from tests.dockerfile import ROOT, is_in_context, last, read_stages

SETTINGS = [name for variable in VARIABLES for name in variable.names]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


class TestCompose:
    def test_ports__only_the_services_own_is_open_to_other_machines(self) -> None:
        """Redis has no password by default, and Kafka none at all."""
        published = {name: service.get("ports", ()) for name, service in read_services().items()}
        assert {
            name: [port for port in ports if not port.startswith("127.0.0.1:")]
            for name, ports in published.items()
            if ports
        } == {"redis": [], "kafka": [], "cache_service": ["6066:6066"]}

    def test_names__are_those_that_others_join_and_call(self) -> None:
        """The owner's other services are on this network, and look for these two names."""
        content = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
        assert content["networks"] == {"preservarium_net": {"name": "preservarium_net"}}
        assert all(service["networks"] == ["preservarium_net"] for service in content["services"].values())
        named = {service.get("container_name") for service in content["services"].values()}
        assert {"redis", "cache_service"} <= named

    def test_port__of_env_is_the_one_that_is_published(self) -> None:
        assert read_services({"WEB_PORT": "7000"})["cache_service"]["ports"] == ["7000:7000"]

    def test_redis_password__of_env_is_that_of_both_ends(self) -> None:
        services = read_services({"REDIS_PASSWORD": "hush"})
        command = services["redis"]["command"]
        assert command[command.index("--requirepass") + 1] == "hush"
        assert services["redis"]["environment"]["REDISCLI_AUTH"] == "hush", "the health check's"
        assert services["fleet"]["environment"]["REDIS_PASSWORD"] == "hush"

    def test_topics__of_env_are_those_that_are_created_and_fed(self) -> None:
        services = read_services({"KAFKA_VALIDATED_DATA_TOPIC": "good", "KAFKA_ERROR_TOPIC": "bad"})
        init = services["kafka-init"]["environment"]
        assert (init["INPUT_TOPIC"], init["ERROR_TOPIC"]) == ("good", "bad")
        fleet = services["fleet"]["environment"]
        assert (fleet["KAFKA_VALIDATED_DATA_TOPIC"], fleet["KAFKA_ERROR_TOPIC"]) == ("good", "bad")

    def test_stop__leaves_the_time_that_the_service_promises_to_need(self) -> None:
        grace = read_services()["cache_service"]["stop_grace_period"]
        assert int(grace.removesuffix("s")) > 10, "the contract's, section 5"

    def test_fleet__is_no_part_of_the_service(self) -> None:
        """Started by its profile only; another image, or building the one would replace the other."""
        services = read_services()
        assert [name for name, service in services.items() if "profiles" in service] == ["fleet"]
        assert services["fleet"]["image"] != services["cache_service"]["image"]
        assert services["fleet"]["build"]["args"]["EXTRAS"] in EXTRAS
        assert not any("fleet" in service.get("depends_on", {}) for service in services.values())

    def test_dev__runs_the_source_of_the_clone(self) -> None:
        (service,) = read_services(name="docker-compose.dev.yml").values()
        source, target, _ = service["volumes"][0].split(":")
        assert (ROOT / source / "app.py").exists()
        assert target == f"{service['environment']['PYTHONPATH']}/stream_cache"


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
        assert not any(services["cache_service"]["environment"].values()), "the defaults are the service's own"

    def test_config__accepts_the_development_override(self, compose: list[str], tmp_path: Path) -> None:
        empty = tmp_path / "env"
        empty.touch()
        services = self.configure(compose, empty, "-f", "docker-compose.yml", "-f", "docker-compose.dev.yml")
        service = services["cache_service"]
        assert service["environment"]["LOG_LEVEL"] == "DEBUG"
        assert set(SETTINGS) < set(service["environment"])
        assert service["container_name"] == "cache_service"

    def test_config__each_setting_of_env_reaches_the_service(self, compose: list[str], tmp_path: Path) -> None:
        wanted = {name: f"1{number}" for number, name in enumerate(SETTINGS)}
        env_file = tmp_path / "env"
        env_file.write_text("".join(f"{name}={value}\n" for name, value in wanted.items()), encoding="utf-8")
        services = self.configure(compose, env_file, "-f", "docker-compose.yml")
        environment = services["cache_service"]["environment"]
        assert {name: str(value) for name, value in environment.items()} == wanted
        [port] = services["cache_service"]["ports"]
        assert str(port["published"]) == str(port["target"]) == wanted["WEB_PORT"]


@pytest.mark.parametrize(
    "path", [".env", ".git/config", "stream_cache/__pycache__/app.cpython-311.pyc", "tests/dockerfile.py"]
)
def test_dockerignore__keeps_out_secrets_and_what_is_not_needed(path: str) -> None:
    """That it lets through what is needed, the test of the build says."""
    assert not is_in_context(path)


def test_healthcheck__has_time_to_say_what_is_wrong() -> None:
    options, _, _ = last(read_stages()[-1], "HEALTHCHECK").partition(" CMD ")
    timeout = re.search(r"--timeout=(\d+)s", options)
    assert timeout is not None
    assert int(timeout[1]) > 3, "the program itself takes 3 s at most"


@pytest.mark.parametrize("name", ["docker/Dockerfile", "docker-compose.yml", "docker-compose.dev.yml"])
def test_images__come_by_plain_names(name: str) -> None:
    """No registry's host in any file."""
    text = (ROOT / name).read_text(encoding="utf-8")
    images = re.findall(r"^\s*(?:image:|FROM)\s+(\S+)", text, flags=re.MULTILINE)
    assert not [image for image in images if "." in image.split("/")[0] and "/" in image]
