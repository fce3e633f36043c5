"""Pure readers and writers of formats: chat data sets, OCI and ModelPack documents, GGUF metadata, pages."""
