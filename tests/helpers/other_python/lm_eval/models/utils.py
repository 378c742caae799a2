def normalize_gen_kwargs(kwargs, default_max_gen_toks):
    return {"max_gen_toks": kwargs.get("max_gen_toks", default_max_gen_toks)}
