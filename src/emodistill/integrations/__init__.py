"""Programs of others that run our models: each module needs the package that it is named after."""
