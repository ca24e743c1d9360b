"""From dumps and text files to cleaned paragraphs of sentences."""
