"""``config.yaml`` -> :class:`Config`: every error at once, each with its file, line and path.

``model`` has the classes, ``source`` reads YAML with line numbers, ``structure`` turns it into classes,
``schema`` describes it all to editors.
"""

from .load import default_data_dir, load_config, read_plugin_folders
from .schema import json_schema
from .secrets import secret_values
from .sections import (
    BackoffConfig,
    BrokerEntry,
    Config,
    DatabaseConfig,
    HistoryEntry,
    JournalConfig,
    LogConfig,
    ServerConfig,
)

__all__ = [
    "BackoffConfig",
    "BrokerEntry",
    "Config",
    "DatabaseConfig",
    "HistoryEntry",
    "JournalConfig",
    "LogConfig",
    "ServerConfig",
    "default_data_dir",
    "json_schema",
    "load_config",
    "read_plugin_folders",
    "secret_values",
]
