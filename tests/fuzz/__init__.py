"""What the server does with any request that its OpenAPI document allows, and with many that it does not."""
