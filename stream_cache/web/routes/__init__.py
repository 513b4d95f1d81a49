"""The views, a module for each resource."""

from stream_cache.web.routes.devices import devices
from stream_cache.web.routes.health import health
from stream_cache.web.routes.metrics import metrics
from stream_cache.web.routes.root import root

BLUEPRINTS = (root, devices, health, metrics)
