"""The auditor's tool: lists, plays, exports and verifies recordings."""
