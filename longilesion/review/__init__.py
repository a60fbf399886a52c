"""`longilesion review`: a person confirms or corrects where each lesion is, in a page in the browser."""
