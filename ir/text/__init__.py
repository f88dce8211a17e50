"""Text of the IR: printer and parser.  `parse(print(graph)) == graph` always.

Grammar (comments run from // to the end of the line):

    module   := "plait.ir" VERSION decl* func
    decl     := "dim" ID ("in" INT ".." (INT | "*") | "=" INT)
              | "const" @NAME ":" type "=" "blob" "(" STRING ")"
    func     := "func" @NAME "(" param,* ")" "->" type,* "{" op* "return" value,* "}" ["loc" "{" loc* "}"]
    param    := %NAME ":" type
    op       := %NAME,+ "=" OPNAME "(" arg,* ")" ["{" attr,* "}"] ":" type,+ region*
    arg      := value | ID "=" value | ID "=" "[" value,* "]"
    attr     := ID "=" literal
    literal  := number | string | true | false | none | dim expression | "[" literal,* "]"
    region   := KEYWORD "(" param,* ")" "{" op* "yield" value,* "}"
    value    := %NAME | @NAME
    loc      := %NAME origin ("+" origin)* ["via" PASS ("+" PASS)*]
    origin   := STRING [FILE ":" INT]
"""
