"""From files to a repository that people find, understand and run.

    files         what a directory holds, or will hold: models, their parts, sidecars, an importance matrix
    choosers      which file llama.cpp, the Hub, Ollama and LM Studio take for a tag
    lint          what they do not find, with the remedy
    source        what it was made from: repository, commit, front matter, tokens that end generation
    conversation  how the chat template writes turns, in Go's words too
    modelfile     Ollama's Modelfile, `params`, `template`, `system`
    purposes      what each type is good for
    commands      how to run a file
    card          README.md of all that
    checksums     SHA256SUMS
    publication   all of it to the Hub, visible by one commit
    making        the same while files are made; turns: which are made together
    journal       what an interrupted run has uploaded

`convert.hub` speaks with the Hub; a face calls `facts_of`, `card_text`, `prepare` and `publish_files`.
"""
