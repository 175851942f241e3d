"""Raw folders to a `DatasetDict`, and loading."""
