"""The web page: `Backend` stylizes what a page asks for, `page` is its layout in Gradio."""
