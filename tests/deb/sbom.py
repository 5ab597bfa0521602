#!/usr/bin/env python3
"""Holds a bill of materials to the schema of CycloneDX 1.5: `sbom.py FILE`. Needs what requirements.txt names."""

import pathlib
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(pathlib.Path(sys.argv[1]).read_text())
print(error or "valid")
sys.exit(error is not None)
