"""Tables, pictures and pages, made from what the other folders found. Nothing is computed here that another folder
needs."""
