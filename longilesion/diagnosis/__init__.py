"""Types of liver lesions on one to four contrast phases, after LIDIA: phases in, lesions with types out."""
