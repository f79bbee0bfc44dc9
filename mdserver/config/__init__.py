"""``config.yaml`` -> :class:`Config`: every error at once, each with its file, line and path.

``sections`` has the classes, ``source`` reads YAML with line numbers, ``structure`` builds the classes from it,
``schema`` describes them to editors.
"""

from .changes import BrokerChanges, broker_changes, changed_settings
from .credentials import credential_keys, with_credentials
from .exposure import check_exposure, is_loopback, is_open
from .load import default_data_dir, load_config, read_plugin_folders
from .schema import json_schema
from .secrets import secret_values
from .sections import (
    KEY_NAME,
    AuthConfig,
    BackoffConfig,
    BrokerEntry,
    BusConfig,
    Config,
    DatabaseConfig,
    HistoryEntry,
    JournalConfig,
    KeyEntry,
    LakeConfig,
    LogConfig,
    ServerConfig,
    TlsConfig,
)

__all__ = [
    "KEY_NAME",
    "AuthConfig",
    "BackoffConfig",
    "BrokerChanges",
    "BrokerEntry",
    "BusConfig",
    "Config",
    "DatabaseConfig",
    "HistoryEntry",
    "JournalConfig",
    "KeyEntry",
    "LakeConfig",
    "LogConfig",
    "ServerConfig",
    "TlsConfig",
    "broker_changes",
    "changed_settings",
    "check_exposure",
    "credential_keys",
    "default_data_dir",
    "is_loopback",
    "is_open",
    "json_schema",
    "load_config",
    "read_plugin_folders",
    "secret_values",
    "with_credentials",
]
