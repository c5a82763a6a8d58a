"""The other process: runs llama.cpp's `conversion` package, unchanged, on our reader's tensors.

    main           imports once, then forks for every conversion: definitions keep state in their classes
    confine        no network, no strangers' code
    staged         a directory that looks like the checkpoint's, without its weights
    source_tensor  our tensors, as `LazyTorchTensor.from_local_tensor` wants them
    upstream       what is replaced in the package at run time, and its own way from a directory to a full writer
    graph          casts, stacks and cuts of stored tensors, recognised in lazy tensors
    evaluate       a lazy tensor's values, and the memory that takes

Nothing here is imported by the process that asks.
"""
