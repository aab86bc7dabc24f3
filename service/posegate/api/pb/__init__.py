"""Generated from proto/posegate/v1 by `make proto`; never edited."""
