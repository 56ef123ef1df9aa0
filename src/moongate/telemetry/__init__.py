"""What a running process tells about itself: logs, metrics, and stalls of its loop."""

from moongate.telemetry.logs import get_logger, setup_logging
from moongate.telemetry.metrics import Metrics
from moongate.telemetry.watchdog import LoopWatchdog

__all__ = ["LoopWatchdog", "Metrics", "get_logger", "setup_logging"]
